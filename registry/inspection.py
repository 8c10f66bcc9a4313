"""May this adapter be registered? What an engine would refuse, or serve wrongly, is refused here, with the reason.

The rules on PEFT features are vLLM 0.32's (``vllm/lora/peft_helper.py``), narrowed to what a hull can combine: plain
LoRA on matrices of the base. Nothing is loaded and nothing is executed: a config, a header, and a look at the numbers.

What a config says an engine or peft would *run* is not taken: regular expressions (``target_modules`` as a text,
``rank_pattern`` keys), code by name (``auto_mapping`` of another library than transformers). A tokenizer or a template
beside the adapter is never kept: a version is its config and its tensors.

Which base an adapter was made for is told by its shapes, always, and by the hash of the base's config where the adapter
carries one (``shoal_base``, in its config or in the ``shoal.json`` that an export writes). ``base_model_name_or_path``
proves nothing: it is a path on somebody's machine as often as a name.

Every reason is listed in docs/api.md (a test compares); those of archives are in ``registry/archives.py``, those of the
safetensors header in ``registry/tensors.py``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.archives import unpack
from registry.artifacts import CONFIG, TENSORS
from registry.base_shape import BaseShape
from registry.errors import AdapterRefused
from registry.strict_json import StrictJsonError, read_json
from registry.tensors import FLOATS, HeaderWrong, Tensor, read_header
from registry.unpacked import PICKLES

__all__ = ["AdapterFacts", "BaseShape", "inspect", "unpack"]

SIDECAR = "shoal.json"  # beside an exported adapter: which base it fits
MAX_CONFIG = 1_000_000  # bytes
MAX_ALPHA = 1e6
_BYSTANDERS = (".md", ".txt", ".json", ".jinja", ".model", ".yaml", ".yml", ".png", ".jpg", ".svg")
_SILENT_INITS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")  # they change lora_A and lora_B only
_PLAIN = re.compile(r"[A-Za-z0-9_.-]{1,200}")
_JSON_REASONS = {
    "duplicate_key": "config_duplicate_key",
    "too_deep": "config_too_deep",
    "too_many": "config_too_big",
    "number": "number_not_finite",
    "text": "config_text",
}
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
    config = _json(folder / CONFIG)
    _same_base(folder, config, base)
    _plain_lora(config)
    _numbers(config, max_rank)
    tensors = _tensors(folder)
    ranks = _pairs(tensors, config, base)
    _all_targets(config["target_modules"], ranks, base)
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
    if all(tensor.zero(folder / TENSORS) for name, tensor in tensors.items() if ".lora_B." in name):
        raise AdapterRefused("no_effect", "Every lora_B is zero: the adapter does nothing. Was it trained?")
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
        if path.suffix.lower() in PICKLES:
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


def _json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > MAX_CONFIG:
        raise AdapterRefused("config_too_big", f"{path.name} is larger than a megabyte.")
    try:
        value = read_json(path.read_bytes())
    except StrictJsonError as error:
        reason = _JSON_REASONS.get(error.kind, "config_invalid")
        raise AdapterRefused(reason, f"{path.name} cannot be read: {error}.") from error
    if not isinstance(value, dict):
        raise AdapterRefused("config_invalid", f"{path.name} cannot be read: it is not a JSON object.")
    return value


def _same_base(folder: Path, config: dict[str, Any], base: BaseShape | None) -> None:
    """Refuses an adapter that says by hash that it was made for another base."""
    sidecar = _json(folder / SIDECAR) if (folder / SIDECAR).is_file() else {}
    told = config.get("shoal_base", sidecar.get("base"))
    if told is not None and base is not None and told != base.config_digest:
        raise AdapterRefused(
            "wrong_base",
            f"The adapter was made for a base whose config hashes to {str(told)[:80]}, this one's to {base.config_digest}.",
            expected=base.config_digest,
            actual=str(told)[:80],
        )


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
        # peft sets it for Conv1D layers alone: for a Linear it takes it back. No hull mixes such a base's adapters.
        "fan_in_fan_out (a base that stores its weights transposed, as GPT-2's Conv1D does)": config.get(
            "fan_in_fan_out"
        ),
        "aLoRA (alora_invocation_tokens)": config.get("alora_invocation_tokens"),
        "modules_to_save": config.get("modules_to_save"),
        "layer_replication": config.get("layer_replication"),
        "BD-LoRA (use_bdlora)": config.get("use_bdlora"),
        "QALoRA (use_qalora)": config.get("use_qalora"),
        "trainable_token_indices": config.get("trainable_token_indices"),
        "target_parameters": config.get("target_parameters"),
        "MoLoRA (arrow_config)": config.get("arrow_config"),
        "megatron_config": config.get("megatron_config"),
        "LoftQ (loftq_config)": config.get("loftq_config"),
        "kasa_config": config.get("kasa_config"),
        "velora_config": config.get("velora_config"),
        "monteclora_config": config.get("monteclora_config"),
        f"task_type {config.get('task_type')!r}"[:80]: config.get("task_type") not in (None, "CAUSAL_LM"),
        "auto_mapping to code outside transformers": _foreign_code(config.get("auto_mapping")),
        "keys for one engine (vllm_...)": any(key.startswith("vllm_") for key in config),
    }
    for feature, used in features.items():
        if used:
            raise AdapterRefused(
                "unsupported", f"The adapter uses {feature}; only plain LoRA can be served.", feature=feature
            )


def _foreign_code(mapping: Any) -> bool:
    """peft imports what ``auto_mapping`` names; transformers alone is known to be harmless."""
    if not mapping:
        return False
    library = str(mapping.get("parent_library", "")) if isinstance(mapping, dict) else ""
    return not re.fullmatch(r"transformers(\.[A-Za-z0-9_]+)*", library)


def _numbers(config: dict[str, Any], max_rank: int) -> None:
    """Refuses numbers and names that are no plain LoRA's."""
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or rank < 1:
        raise AdapterRefused("config_invalid", f"{CONFIG}: 'r' is {rank!r}, it must be a positive integer.")
    if type(alpha) not in (int, float) or not 0 < alpha <= MAX_ALPHA:  # type: ignore[operator]
        raise AdapterRefused("alpha", f"{CONFIG}: 'lora_alpha' is {str(alpha)[:40]}, it must be above 0, at most 1e6.")
    for name, whole in (("rank_pattern", True), ("alpha_pattern", False)):
        pattern = config.get(name) or {}
        kinds = (int,) if whole else (int, float)
        if not isinstance(pattern, dict) or not all(type(v) in kinds and 0 < v <= MAX_ALPHA for v in pattern.values()):
            raise AdapterRefused("config_invalid", f"{CONFIG}: '{name}' must map module names to positive numbers.")
        if not all(_PLAIN.fullmatch(key) for key in pattern):  # engines run these keys as regular expressions
            raise AdapterRefused("config_invalid", f"{CONFIG}: '{name}' must have plain module names, not expressions.")
    highest = max((config.get("rank_pattern") or {}).values(), default=0)
    if highest > max_rank:  # an engine makes room for the highest, whether or not a module has it
        raise AdapterRefused(
            "rank_too_high",
            f"The adapter's rank_pattern goes up to {highest}, this service takes up to {max_rank} (SHOAL_MAX_LORA_RANK).",
            rank=highest,
            max_rank=max_rank,
        )
    for name in ("use_rslora", "fan_in_fan_out"):
        if not isinstance(config.get(name, False), bool | None):
            raise AdapterRefused("config_invalid", f"{CONFIG}: '{name}' must be true or false.")
    _plain_names("target_modules", config.get("target_modules"), needed=True)
    _plain_names("exclude_modules", config.get("exclude_modules"), needed=False)


def _plain_names(field: str, names: Any, *, needed: bool) -> None:
    """A text is a regular expression to peft, which runs it: only a list of names is taken."""
    if names is None and not needed:
        return
    listed = isinstance(names, list) and all(isinstance(name, str) and _PLAIN.fullmatch(name) for name in names)
    if not listed or (needed and not names):
        told = f'{CONFIG}: \'{field}\' must be a list of module names, such as ["q_proj", "v_proj"], not an expression.'
        raise AdapterRefused("target_modules", told)


def _tensors(folder: Path) -> dict[str, Tensor]:
    try:
        tensors = read_header(folder / TENSORS)
    except HeaderWrong as error:
        raise AdapterRefused(error.reason, f"{TENSORS} is damaged: {error}.") from error
    for tensor in tensors.values():
        if 0 in tensor.shape:
            raise AdapterRefused("zero_dimension", f"'{tensor.name}' has shape {tensor.shape}: it holds nothing.")
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
        if not any(_ends(found["module"], target) for target in config["target_modules"]):
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


def _all_targets(targets: list[str], ranks: dict[str, int], base: BaseShape | None) -> None:
    """Every module that the config lists must have been adapted, and be one of the base's."""
    for target in targets:
        if any(_ends(module, target) for module in ranks):
            continue
        if base is not None and not any(_ends(module, target) for module in base.matrices):
            told = f"{CONFIG} lists '{target}' in target_modules; the base model has no such module: wrong base?"
            raise AdapterRefused("unknown_module", told, module=target)
        told = f"{CONFIG} lists '{target}' in target_modules, but {TENSORS} has no matrix of it: is the file whole?"
        raise AdapterRefused("missing_module", told, module=target)


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
        if actual != shape:
            raise AdapterRefused(
                "shape", f"'{module}' is made for a {actual} matrix, the base's is {shape}: wrong base?", module=module
            )
    return down[0]


def _pattern(pattern: dict[str, int] | None, module: str, otherwise: int) -> int:
    """PEFT's rule: a key matches the end of a module's name, at a dot; the first match wins.

    peft runs a key as an expression, in which a dot is any character; a key holds nothing else that means something.
    """
    found = (value for key, value in (pattern or {}).items() if re.fullmatch(rf"(?:.*\.)?{key}", module))
    return next(found, otherwise)


def _ends(module: str, name: str) -> bool:
    return module == name or module.endswith(f".{name}")
