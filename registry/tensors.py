"""The header of a safetensors file, read by hand and with bounds, before anything loads the file.

Format: 8 bytes little-endian length of the header, the header as JSON (name -> dtype, shape, data_offsets), then the
bytes of the tensors. https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from registry.strict_json import StrictJsonError, read_json

MAX_HEADER = 10_000_000  # bytes; the format's own limit is 100 MB, an adapter needs some kilobytes
MAX_TENSORS = 50_000
MAX_NAME = 300
WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
WIDTHS |= {"U16": 2, "U32": 4, "U64": 8, "F8_E4M3": 1, "F8_E5M2": 1}
FLOATS = ("F32", "F16", "BF16")
_NAME = re.compile(rf"[!-~]{{1,{MAX_NAME}}}")  # printable ASCII without blanks: what every framework's names are
_FOREIGN = {b"PK": "safetensors_is_zip", b"\x80\x02": "safetensors_is_pickle", b"\x80\x03": "safetensors_is_pickle"}
_FOREIGN |= {b"\x80\x04": "safetensors_is_pickle", b"\x80\x05": "safetensors_is_pickle"}
_JSON_REASONS = {"too_deep": "header_too_deep", "too_many": "header_too_many", "duplicate_key": "header_duplicate_key"}


class HeaderWrong(ValueError):
    """The file is not a whole safetensors file. The message says why, ``reason`` in one word."""

    def __init__(self, message: str, reason: str = "safetensors_invalid") -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where one tensor lies: shape, dtype, and the bytes ``begin`` to ``end`` of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    def finite(self, path: Path) -> bool:
        """Whether every number is finite. Only for ``FLOATS``."""
        # bfloat16 is unknown to numpy: all eight exponent bits set means Inf or NaN.
        brain = self.dtype == "BF16"
        return all(
            bool(((part & 0x7F80) != 0x7F80).all() if brain else np.isfinite(part).all()) for part in self._parts(path)
        )

    def zero(self, path: Path) -> bool:
        """Whether every number is 0 or -0. Only for ``FLOATS``."""
        sign = 0x7FFF if self.dtype == "BF16" else None
        return not any(bool((part if sign is None else part & sign).any()) for part in self._parts(path))

    def _parts(self, path: Path) -> Iterator[np.ndarray]:
        """The numbers, through a map, a million at a time; bfloat16 as its bits."""
        count = (self.end - self.begin) // WIDTHS[self.dtype]
        if count:
            kind = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[self.dtype]
            mapped = np.memmap(path, dtype=kind, mode="r", offset=self.begin, shape=(count,))
            for start in range(0, count, 1_000_000):
                yield mapped[start : start + 1_000_000]


def read_header(path: Path, *, whole: bool = True) -> dict[str, Tensor]:
    """The tensors of a file by name. ``HeaderWrong`` for a truncated, overlapping or absurd one.

    ``whole``: the tensors must cover the rest of the file without gap or overlap, as the format asks.
    """
    size = path.stat().st_size
    start, entries = _entries(path, size)
    tensors = {name: _tensor(name, entry, start, size) for name, entry in entries.items()}
    if whole:
        place = start
        for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.begin, tensor.end)):
            if tensor.begin != place:
                told = "overlap" if tensor.begin < place else "gap"
                raise HeaderWrong(f"'{tensor.name}' begins at byte {tensor.begin}, not at {place}: {told}", told)
            place = tensor.end
        if place != size:
            raise HeaderWrong(f"its tensors end at byte {place}, the file at {size}", "trailing_bytes")
    return tensors


def _entries(path: Path, size: int) -> tuple[int, dict[str, Any]]:
    """Where the tensors begin, and the header's entries."""
    with path.open("rb") as file:
        head = file.read(8)
        length = int.from_bytes(head, "little")
        if length > MAX_HEADER:  # only then: 640 is a length that begins as a pickle does
            if foreign := _FOREIGN.get(head[:2]):
                raise HeaderWrong("it is another kind of file under this name", foreign)
            raise HeaderWrong(f"its header claims {length} bytes", "header_too_big")
        if size < 8 or length > size - 8 or length < 2:
            raise HeaderWrong(f"its header claims {length} bytes, the file has {size}", "truncated")
        raw = file.read(length)
    try:
        entries = read_json(raw, deepest=4, most_values=10 * MAX_TENSORS)
    except StrictJsonError as error:
        reason = _JSON_REASONS.get(error.kind, "header_invalid")
        raise HeaderWrong(f"its header cannot be read: {error}", reason) from error
    if not isinstance(entries, dict):
        raise HeaderWrong("its header is not a JSON object", "header_invalid")
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise HeaderWrong("its __metadata__ must map text to text", "header_metadata")
    if len(entries) > MAX_TENSORS:
        raise HeaderWrong(f"it names {len(entries)} tensors, at most {MAX_TENSORS} are read", "header_too_many")
    return 8 + length, entries


def _tensor(name: str, entry: Any, start: int, size: int) -> Tensor:
    if not _NAME.fullmatch(name):
        raise HeaderWrong(f"it names a tensor {name[:80]!r}", "odd_name")
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        whole = all(type(number) is int and number >= 0 for number in (*shape, begin, end))
    except (KeyError, TypeError, ValueError) as error:
        raise HeaderWrong(f"the entry of '{name}' is not dtype, shape, data_offsets", "header_entry") from error
    if not whole or not isinstance(dtype, str) or dtype not in WIDTHS or len(shape) > 8:
        raise HeaderWrong(f"'{name}' has dtype {str(dtype)[:40]!r} and shape {str(shape)[:80]}", "header_entry")
    if start + end > size:
        raise HeaderWrong(f"'{name}' ends at byte {start + end}, the file at {size}", "truncated")
    if end - begin != math.prod(shape) * WIDTHS[dtype]:
        raise HeaderWrong(f"'{name}' does not fit its place ({begin} to {end} for {tuple(shape)})", "wrong_size")
    return Tensor(name, dtype, tuple(shape), start + begin, start + end)
