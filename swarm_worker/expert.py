"""Read one PEFT LoRA folder: what it adapts, its factors one by one, or the reason why it cannot be mixed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

TENSOR_NAME = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")
# How a file's header calls the types that an expert may be stored in. A stack holds float64 as float32.
STORED_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float32}

# Features that change what an adapter computes: a sum of B A products would not be the sum of such experts.
REFUSED_FEATURES = {
    "use_dora": "DoRA",
    "lora_bias": "a LoRA bias",
    "modules_to_save": "fully trained modules (modules_to_save)",
    "trainable_token_indices": "trained tokens",
    "layer_replication": "replicated layers",
    "alora_invocation_tokens": "aLoRA",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "fan_in_fan_out": "transposed weights (fan_in_fan_out)",
    "megatron_config": "Megatron layers",
    "target_parameters": "adapted parameters (target_parameters)",
}
# These initialisations also change the base model's own weights.
REFUSED_INITIALISATIONS = ("pissa", "olora", "corda", "loftq", "lora_ga")


class UnusableExpert(ValueError):
    """A folder that cannot be one of the experts of a search, with the reason."""

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(f"{folder}: {reason}")
        self.folder = folder
        self.reason = reason


@dataclass(frozen=True, slots=True)
class AdaptedModule:
    """What an expert has for one module: dW = scaling * B A, A (rank, d_in), B (d_out, rank), in ``dtype``."""

    rank: int
    d_out: int
    d_in: int
    scaling: float
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class Expert:
    """A LoRA adapter in its folder: what it adapts, by module name (as in the base model). Holds no tensor."""

    folder: Path
    base_model: str | None
    modules: dict[str, AdaptedModule]

    def factors(self) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
        """(module, A, B) as stored, without scaling, one module in memory at a time. Raises ``UnusableExpert`` at a value
        that is not finite."""
        try:
            with safe_open(self.folder / "adapter_model.safetensors", framework="pt") as stored:
                for module in self.modules:
                    yield module, self._finite(stored, module, "A"), self._finite(stored, module, "B")
        except (OSError, SafetensorError) as error:
            raise UnusableExpert(self.folder, f"adapter_model.safetensors cannot be read ({error})") from error

    def _finite(self, stored: Any, module: str, factor: str) -> torch.Tensor:
        name = f"base_model.model.{module}.lora_{factor}.weight"
        tensor: torch.Tensor = stored.get_tensor(name)
        if not torch.isfinite(tensor).all():
            raise UnusableExpert(self.folder, f"the tensor {name} has values that are not finite")
        return tensor

    def require_shape(self, module: str, d_out: int, d_in: int) -> None:
        actual = (self.modules[module].d_out, self.modules[module].d_in)
        if actual != (d_out, d_in):
            raise UnusableExpert(self.folder, f"{module} is {actual}, another expert's is {(d_out, d_in)}")


@dataclass(frozen=True, slots=True)
class _Stored:
    shape: tuple[int, ...]
    dtype: torch.dtype


def read_expert(folder: Path) -> Expert:
    """Read ``adapter_config.json`` and the header of ``adapter_model.safetensors``, no tensor yet.

    Raises ``UnusableExpert`` with the reason.
    """
    config = _read_config(folder)
    header = _read_header(folder)
    modules = {}
    for module in sorted({name for name, _ in header}):
        a, b = header.get((module, "A")), header.get((module, "B"))
        if a is None or b is None:
            raise UnusableExpert(folder, f"{module} has only one of lora_A and lora_B")
        if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1]:
            raise UnusableExpert(folder, f"{module}: lora_A {a.shape} and lora_B {b.shape} do not multiply")
        scaling = _scaling(folder, config, module, rank=a.shape[0])
        dtype = torch.promote_types(a.dtype, b.dtype)
        modules[module] = AdaptedModule(a.shape[0], b.shape[0], a.shape[1], scaling, dtype)
    return Expert(folder, config.get("base_model_name_or_path"), modules)


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "adapter_config.json").read_text())
    except (OSError, ValueError) as error:
        raise UnusableExpert(folder, f"adapter_config.json cannot be read ({error})") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise UnusableExpert(folder, "it is not a PEFT LoRA adapter")
    for field, feature in REFUSED_FEATURES.items():
        if config.get(field):
            raise UnusableExpert(folder, f"it uses {feature}, which cannot be mixed")
    if config.get("bias", "none") != "none":
        raise UnusableExpert(folder, "it trains biases, which cannot be mixed")
    initialisation = str(config.get("init_lora_weights", True)).lower()
    if initialisation.startswith(REFUSED_INITIALISATIONS):
        raise UnusableExpert(folder, f"its initialisation ({initialisation}) changed the base model's weights")
    return config


def _read_header(folder: Path) -> dict[tuple[str, str], _Stored]:
    header = {}
    try:
        with safe_open(folder / "adapter_model.safetensors", framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118 - a safe_open is no mapping
                match = TENSOR_NAME.fullmatch(name)
                if match is None:
                    raise UnusableExpert(folder, f"the tensor {name} is not a LoRA factor of a linear module")
                part = stored.get_slice(name)
                if part.get_dtype() not in STORED_DTYPES:
                    raise UnusableExpert(folder, f"the tensor {name} is stored as {part.get_dtype()}, not as a float")
                dtype = STORED_DTYPES[part.get_dtype()]
                header[match["module"], match["factor"]] = _Stored(tuple(part.get_shape()), dtype)
    except (OSError, SafetensorError) as error:
        raise UnusableExpert(folder, f"adapter_model.safetensors cannot be read ({error})") from error
    if not header:
        raise UnusableExpert(folder, "it has no tensors")
    return header


def _scaling(folder: Path, config: dict[str, Any], module: str, rank: int) -> float:
    """alpha / r, or alpha / sqrt(r) with rsLoRA (arXiv:2312.03732), with PEFT's overrides per module."""
    ranks, alphas = config.get("rank_pattern") or {}, config.get("alpha_pattern") or {}
    declared = ranks.get(_pattern(ranks, module), config.get("r"))
    if declared != rank:
        raise UnusableExpert(folder, f"{module} has rank {rank}, its adapter_config.json says {declared}")
    alpha = float(alphas.get(_pattern(alphas, module), config.get("lora_alpha", rank)))
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _pattern(patterns: Iterable[str], module: str) -> str | None:
    """The first pattern that matches the end of the module's name, as PEFT looks them up."""
    return next((pattern for pattern in patterns if re.match(rf"(.*\.)?({pattern})$", module)), None)
