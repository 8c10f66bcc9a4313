"""The header of a safetensors file, read by hand and with bounds, before anything loads the file.

Format: 8 bytes little-endian length of the header, the header as JSON (name -> dtype, shape, data_offsets), then the
bytes of the tensors. https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MAX_HEADER = 25_000_000  # bytes; the format's own limit is 100 MB, an adapter needs some kilobytes
WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
WIDTHS |= {"U16": 2, "U32": 4, "U64": 8, "F8_E4M3": 1, "F8_E5M2": 1}
FLOATS = ("F32", "F16", "BF16")


class HeaderWrong(ValueError):
    """The file is not a whole safetensors file; the message says why."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where one tensor lies: shape, dtype, and the bytes ``begin`` to ``end`` of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    def finite(self, path: Path) -> bool:
        """Whether every number is finite; read through a map, a million at a time. Only for ``FLOATS``."""
        width = WIDTHS[self.dtype]
        kind = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[self.dtype]
        count = (self.end - self.begin) // width
        if not count:
            return True
        mapped = np.memmap(path, dtype=kind, mode="r", offset=self.begin, shape=(count,))
        for start in range(0, count, 1_000_000):
            part = mapped[start : start + 1_000_000]
            # bfloat16 is unknown to numpy: all eight exponent bits set means Inf or NaN.
            good = (part & 0x7F80) != 0x7F80 if self.dtype == "BF16" else np.isfinite(part)
            if not bool(good.all()):
                return False
        return True


def read_header(path: Path, *, whole: bool = True) -> dict[str, Tensor]:
    """The tensors of a file by name. ``HeaderWrong`` for a truncated, overlapping or absurd one.

    ``whole``: the tensors must cover the rest of the file without gap or overlap, as the format asks.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(MAX_HEADER, size - 8) or length < 2:
            raise HeaderWrong(f"its header claims {length} bytes, the file has {size}")
        raw = file.read(length)
    try:
        entries = json.loads(raw, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise HeaderWrong(f"its header is not JSON ({type(error).__name__})") from error
    if not isinstance(entries, dict):
        raise HeaderWrong("its header is not a JSON object")
    entries.pop("__metadata__", None)
    start = 8 + length
    tensors = {name: _tensor(name, entry, start, size) for name, entry in entries.items()}
    if whole:
        place = start
        for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.begin, tensor.end)):
            if tensor.begin != place:
                raise HeaderWrong(f"'{tensor.name}' begins at byte {tensor.begin}, not at {place}: overlap or gap")
            place = tensor.end
        if place != size:
            raise HeaderWrong(f"its tensors end at byte {place}, the file at {size}")
    return tensors


def _tensor(name: str, entry: Any, start: int, size: int) -> Tensor:
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        whole = all(type(number) is int and number >= 0 for number in (*shape, begin, end))
    except (KeyError, TypeError, ValueError) as error:
        raise HeaderWrong(f"the entry of '{name[:200]}' is not dtype, shape, data_offsets") from error
    if not whole or not isinstance(dtype, str) or dtype not in WIDTHS or len(shape) > 8:
        raise HeaderWrong(f"'{name[:200]}' has dtype {str(dtype)[:40]!r} and shape {str(shape)[:80]}")
    if end - begin != math.prod(shape) * WIDTHS[dtype] or start + end > size:
        raise HeaderWrong(f"'{name[:200]}' does not fit its place ({begin} to {end} for {tuple(shape)})")
    return Tensor(name, dtype, tuple(shape), start + begin, start + end)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise ValueError("a name twice")
    return dict(pairs)
