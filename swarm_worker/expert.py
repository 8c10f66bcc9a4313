"""Read one PEFT LoRA folder: its factors with their scaling, or the reason why it cannot be mixed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

TENSOR_NAME = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")

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
class Factors:
    """dW = b @ a: ``a`` (r, d_in), ``b`` (d_out, r), float32, scaling in b."""

    a: torch.Tensor
    b: torch.Tensor


@dataclass(frozen=True, slots=True)
class Expert:
    """A LoRA adapter's factors by module name (as in the base model)."""

    folder: Path
    base_model: str | None
    modules: dict[str, Factors]

    def require_shape(self, module: str, d_out: int, d_in: int) -> None:
        factors = self.modules[module]
        actual = (factors.b.shape[0], factors.a.shape[1])
        if actual != (d_out, d_in):
            raise UnusableExpert(self.folder, f"{module} is {actual}, another expert's is {(d_out, d_in)}")


def read_expert(folder: Path) -> Expert:
    """Read ``adapter_config.json`` and ``adapter_model.safetensors``. Raises ``UnusableExpert`` with the reason."""
    config = _read_config(folder)
    tensors = _read_tensors(folder)
    modules = {}
    for module in sorted({name for name, _ in tensors}):
        a, b = tensors.get((module, "A")), tensors.get((module, "B"))
        if a is None or b is None:
            raise UnusableExpert(folder, f"{module} has only one of lora_A and lora_B")
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
            raise UnusableExpert(
                folder, f"{module}: lora_A {tuple(a.shape)} and lora_B {tuple(b.shape)} do not multiply"
            )
        scaling = _scaling(folder, config, module, rank=a.shape[0])
        modules[module] = Factors(a.float(), b.float() * scaling)
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


def _read_tensors(folder: Path) -> dict[tuple[str, str], torch.Tensor]:
    try:
        stored = load_file(folder / "adapter_model.safetensors")
    except (OSError, SafetensorError) as error:
        raise UnusableExpert(folder, f"adapter_model.safetensors cannot be read ({error})") from error
    tensors = {}
    for name, tensor in stored.items():
        match = TENSOR_NAME.fullmatch(name)
        if match is None:
            raise UnusableExpert(folder, f"the tensor {name} is not a LoRA factor of a linear module")
        if not torch.isfinite(tensor).all():
            raise UnusableExpert(folder, f"the tensor {name} has values that are not finite")
        tensors[match["module"], match["factor"]] = tensor
    if not tensors:
        raise UnusableExpert(folder, "it has no tensors")
    return tensors


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
