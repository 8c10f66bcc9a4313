"""What an adapter's files say about it, read before an engine sees them.

vLLM takes two kinds of adapter without a word that must not come in: one with layers that this engine does not adapt
(they are left out, and the adapter does half of what it should), and one with NaN in it (its requests leave NaN in
cache pages, and the next requests that get those pages answer nonsense: seen with 0.32 on CPU).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

EXPONENTS = {"F64": ("<u8", 0x7FF0 << 48), "F32": ("<u4", 0x7F800000), "F16": ("<u2", 0x7C00), "BF16": ("<u2", 0x7F80)}
"""Bits of a float's exponent, by safetensors' name of the type: all of them set is an infinity or a NaN."""


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """``rank`` as configured; ``modules``: last parts of the adapted layers' names; ``idle``: every lora_B is zero."""

    rank: int
    modules: frozenset[str]
    finite: bool
    idle: bool


def read_adapter(path: Path) -> AdapterFiles:
    """Read a PEFT folder's config and every tensor's bits. Raises ValueError: what is wrong with the folder."""
    try:
        rank = int(json.loads((path / "adapter_config.json").read_text())["r"])
        with (path / "adapter_model.safetensors").open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header: dict[str, dict] = json.loads(file.read(length))
        tensors = np.memmap(path / "adapter_model.safetensors", np.uint8, "r", 8 + length)
    except FileNotFoundError as error:
        raise ValueError(f"{Path(error.filename).name} is missing") from error
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"not a PEFT folder with safetensors: {error}") from error
    header.pop("__metadata__", None)
    finite, idle, modules = True, True, set()
    for name, tensor in header.items():
        if tensor["dtype"] not in EXPONENTS:
            raise ValueError(f"{name} is {tensor['dtype']}, not a floating-point tensor")
        kind, exponent = EXPONENTS[tensor["dtype"]]
        bits = tensors[slice(*tensor["data_offsets"])].view(kind)
        finite &= not bool(((bits & exponent) == exponent).any())
        if ".lora_B." in name:
            idle &= not bool((bits << 1).any())  # without the sign: -0.0 is zero
        modules.add(name.split(".lora_")[0].rpartition(".")[2])
    return AdapterFiles(rank, frozenset(modules), finite, idle)


def reason_to_refuse(files: AdapterFiles, max_rank: int, modules: tuple[str, ...] | None) -> str | None:
    """Why an engine with these settings must not take the adapter; None if it may."""
    if files.rank > max_rank:
        return f"its rank is {files.rank}, the engine's max_lora_rank is {max_rank}"
    if modules is not None and (foreign := sorted(files.modules - set(modules))):
        return f"it adapts {', '.join(foreign)}; the engine adapts {', '.join(modules)} (lora_modules)"
    if not files.finite:
        return "it has NaN or infinite weights"
    return None
