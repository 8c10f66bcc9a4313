"""May this adapter be registered? What an engine would refuse, or serve wrongly, is refused here, with the reason.

The rules on PEFT features are vLLM 0.32's (``vllm/lora/peft_helper.py``), narrowed to what a hull can combine: plain
LoRA on matrices of the base. Nothing is loaded and nothing is executed: a config, a header, and a look at the numbers.

Reasons: config_missing, config_invalid, not_lora, unsupported (with ``feature``), not_safetensors, safetensors_invalid,
dtype, rank, rank_too_high, unknown_module, shape, incomplete, not_finite, link, unexpected_file, too_big; and those of
``registry/archives.py``: archive_invalid, archive_unsafe_path, archive_link, archive_too_big, archive_too_many,
archive_no_adapter, archive_many_adapters.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.archives import unpack
from registry.artifacts import CONFIG, TENSORS
from registry.base_shape import BaseShape
from registry.errors import AdapterRefused
from registry.tensors import FLOATS, HeaderWrong, Tensor, read_header

__all__ = ["AdapterFacts", "BaseShape", "inspect", "unpack"]

MAX_CONFIG = 1_000_000  # bytes
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
_BYSTANDERS = (".md", ".txt", ".json", ".jinja", ".model", ".yaml", ".yml", ".png", ".jpg", ".svg")
_SILENT_INITS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")  # they change lora_A and lora_B only
_PLAIN = re.compile(r"[A-Za-z0-9_.-]{1,200}")
_NAME = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """What the registry wants to know of an adapter that it may register. ``rank`` is the highest of its modules."""

    rank: int
    alpha: float
    target_modules: tuple[str, ...]
    size: int


def inspect(folder: Path, *, base: BaseShape | None, max_rank: int, max_bytes: int) -> AdapterFacts:
    """The facts of the PEFT folder, or ``AdapterRefused`` with the first reason found.

    ``base``: None skips the questions about module names and shapes (no base is known here).
    """
    size = _files(folder, max_bytes)
    config = _config(folder)
    _plain_lora(config)
    tensors = _tensors(folder)
    ranks = _pairs(tensors, config, base)
    if max(ranks.values()) > max_rank:
        raise AdapterRefused(
            "rank_too_high",
            f"The adapter has rank {max(ranks.values())}, this service takes up to {max_rank} (SHOAL_MAX_LORA_RANK).",
            rank=max(ranks.values()),
            max_rank=max_rank,
        )
    for tensor in tensors.values():
        if not tensor.finite(folder / TENSORS):
            raise AdapterRefused("not_finite", f"'{tensor.name}' holds NaN or Inf.", tensor=tensor.name)
    modules = sorted({module.rsplit(".", 1)[-1] for module in ranks})
    return AdapterFacts(max(ranks.values()), float(config["lora_alpha"]), tuple(modules), size)


def _files(folder: Path, max_bytes: int) -> int:
    """The bytes that will be kept. Only the config and the tensors are; what lies beside them must be harmless."""
    if not folder.is_dir():
        raise AdapterRefused("config_missing", f"'{folder.name}' is not a folder.")
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") and path.name not in (CONFIG, TENSORS):
            continue  # .git, .cache, .gitattributes of a download
        if path.is_symlink():
            raise AdapterRefused("link", f"'{path.name}' is a link. Copy the file itself.", file=path.name)
        if path.suffix.lower() in _PICKLES:
            raise AdapterRefused(
                "not_safetensors",
                f"'{path.name}' is a pickle, which can run code when it is loaded. Save as safetensors, delete this.",
                file=path.name,
            )
        known = path.name in (CONFIG, TENSORS) or path.suffix.lower() in _BYSTANDERS
        if not path.is_file() or not (known or path.name.upper() in ("LICENSE", "NOTICE", "README")):
            raise AdapterRefused("unexpected_file", f"'{path.name}' does not belong to an adapter.", file=path.name)
    if not (folder / CONFIG).is_file():
        raise AdapterRefused("config_missing", f"There is no {CONFIG}: this is not a PEFT adapter.")
    if not (folder / TENSORS).is_file():
        raise AdapterRefused("not_safetensors", f"There is no {TENSORS}. Save the adapter as safetensors.")
    size = sum((folder / name).stat().st_size for name in (CONFIG, TENSORS))
    if size > max_bytes:
        raise AdapterRefused(
            "too_big", f"The adapter has {size} bytes, the limit is {max_bytes} (SHOAL_MAX_UPLOAD_MB)."
        )
    return size


def _config(folder: Path) -> dict[str, Any]:
    try:
        if (folder / CONFIG).stat().st_size > MAX_CONFIG:
            raise ValueError("it is larger than a megabyte")
        config = json.loads((folder / CONFIG).read_text("utf-8"), parse_constant=_no_constant)
        if not isinstance(config, dict):
            raise ValueError("it is not a JSON object")
    except (ValueError, RecursionError) as error:
        raise AdapterRefused("config_invalid", f"{CONFIG} cannot be read: {error}") from error
    return config


def _no_constant(name: str) -> float:
    raise ValueError(f"it holds {name}")


def _plain_lora(config: dict[str, Any]) -> None:
    """Refuses everything that is not plain LoRA, before a tensor is looked at."""
    kind = config.get("peft_type")
    if kind != "LORA":
        raise AdapterRefused("not_lora", f"The adapter's peft_type is {kind!r}; only LORA can be served.")
    init = config.get("init_lora_weights", True)
    features = {
        "DoRA (use_dora)": config.get("use_dora"),
        f"init_lora_weights={init!r}": isinstance(init, str) and init.lower() not in _SILENT_INITS,
        "bias": config.get("bias", "none") not in ("none", None),
        "lora_bias": config.get("lora_bias"),
        "aLoRA (alora_invocation_tokens)": config.get("alora_invocation_tokens"),
        "modules_to_save": config.get("modules_to_save"),
        "layer_replication": config.get("layer_replication"),
        "BD-LoRA (use_bdlora)": config.get("use_bdlora"),
        "QALoRA (use_qalora)": config.get("use_qalora"),
        "trainable_token_indices": config.get("trainable_token_indices"),
        "target_parameters": config.get("target_parameters"),
        "MoLoRA (arrow_config)": config.get("arrow_config"),
        "megatron_config": config.get("megatron_config"),
    }
    for feature, used in features.items():
        if used:
            raise AdapterRefused(
                "unsupported", f"The adapter uses {feature}; only plain LoRA can be served.", feature=feature
            )
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or rank < 1:
        raise AdapterRefused("config_invalid", f"{CONFIG}: 'r' is {rank!r}, it must be a positive integer.")
    if type(alpha) not in (int, float) or not math.isfinite(alpha):  # type: ignore[arg-type]
        raise AdapterRefused("config_invalid", f"{CONFIG}: 'lora_alpha' is {alpha!r}, it must be a number.")
    for name in ("rank_pattern", "alpha_pattern"):
        pattern = config.get(name) or {}
        if not isinstance(pattern, dict) or not all(type(v) in (int, float) and v > 0 for v in pattern.values()):
            raise AdapterRefused("config_invalid", f"{CONFIG}: '{name}' must map module names to positive numbers.")
        if not all(_PLAIN.fullmatch(key) for key in pattern):  # engines run these keys as regular expressions
            raise AdapterRefused("config_invalid", f"{CONFIG}: '{name}' must have plain module names, not expressions.")
    targets = config.get("target_modules")
    listed = isinstance(targets, list) and all(isinstance(target, str) for target in targets)
    if not targets or not (listed or isinstance(targets, str)):
        raise AdapterRefused("config_invalid", f"{CONFIG}: 'target_modules' must name modules.")


def _tensors(folder: Path) -> dict[str, Tensor]:
    try:
        tensors = read_header(folder / TENSORS)
    except HeaderWrong as error:
        raise AdapterRefused("safetensors_invalid", f"{TENSORS} is damaged: {error}.") from error
    for tensor in tensors.values():
        if tensor.dtype not in FLOATS:
            raise AdapterRefused("dtype", f"'{tensor.name}' is {tensor.dtype}; an adapter has {', '.join(FLOATS)}.")
    if not tensors:
        raise AdapterRefused("incomplete", f"{TENSORS} holds no tensor.")
    return tensors


def _pairs(tensors: dict[str, Tensor], config: dict[str, Any], base: BaseShape | None) -> dict[str, int]:
    """The rank of every module that has both its matrices, lora_A (rank, in) and lora_B (out, rank)."""
    sides: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        found = _NAME.fullmatch(name)
        if not found:
            raise AdapterRefused(
                "unknown_module", f"'{name[:200]}' is not a lora_A or lora_B matrix.", tensor=name[:200]
            )
        targets = config["target_modules"]
        if isinstance(targets, list) and not any(_ends(found["module"], target) for target in targets):
            raise AdapterRefused(
                "unknown_module", f"'{found['module']}' is not among {CONFIG}'s target_modules.", module=found["module"]
            )
        sides.setdefault(found["module"], {})[found["side"]] = tensor
    ranks = {}
    for module, pair in sides.items():
        if len(pair) < 2:
            raise AdapterRefused("incomplete", f"'{module}' has lora_{next(iter(pair))} only.", module=module)
        ranks[module] = _rank(module, pair["A"].shape, pair["B"].shape, config, base)
    return ranks


def _rank(
    module: str, down: tuple[int, ...], up: tuple[int, ...], config: dict[str, Any], base: BaseShape | None
) -> int:
    if len(down) != 2 or len(up) != 2 or down[0] != up[1]:
        raise AdapterRefused("shape", f"'{module}': lora_A {down} and lora_B {up} do not fit.", module=module)
    expected = _pattern(config.get("rank_pattern"), module, config["r"])
    if down[0] != expected:
        raise AdapterRefused("rank", f"'{module}' has rank {down[0]}, {CONFIG} says {expected}.", module=module)
    if base is not None:
        shape = base.of(module)
        if shape is None:
            raise AdapterRefused(
                "unknown_module", f"The base model has no matrix '{module}': wrong base?", module=module
            )
        actual = (up[0], down[1])
        if actual != shape and not (config.get("fan_in_fan_out") and actual == shape[::-1]):
            raise AdapterRefused(
                "shape", f"'{module}' is made for a {actual} matrix, the base's is {shape}: wrong base?", module=module
            )
    return down[0]


def _pattern(pattern: dict[str, int] | None, module: str, otherwise: int) -> int:
    """PEFT's rule: a key matches the end of a module's name, at a dot; the first match wins."""
    return next((value for key, value in (pattern or {}).items() if _ends(module, key)), otherwise)


def _ends(module: str, name: str) -> bool:
    return module == name or module.endswith(f".{name}")
