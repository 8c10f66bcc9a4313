"""What a search remembers between two calls: its state after the last generation, and every utility it ever computed.

::

    state.json    the run's identity, the optimiser's state, the bill, every generation's positions and utilities;
                  written whole and renamed after each generation, so it is always that of a complete one
    cache.jsonl   one line a position: its key and its scores; appended; a last line that a crash cut short is dropped
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any


def write_json(file: Path, value: Any) -> None:
    """Replace ``file`` in one step: readers see the old value or the new one, whatever happens meanwhile."""
    write_text(file, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(file: Path, text: str) -> None:
    """As ``write_json``."""
    handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(0o644)  # mkstemp makes it private
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


class DiskCache(MutableMapping[str, Any]):
    """JSON values by key, kept in a file; what was set survives the process. One process at a time."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known: dict[str, Any] = {}
        if file.exists():
            self._read()

    def _read(self) -> None:
        whole = 0
        with self._file.open("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                key, value = json.loads(line)
                self._known[key] = value
                whole += len(line)
        os.truncate(self._file, whole)

    def __getitem__(self, key: str) -> Any:
        return self._known[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._known[key] = value
        with self._file.open("ab") as end:
            end.write(json.dumps([key, value], separators=(",", ":")).encode() + b"\n")

    def __delitem__(self, key: str) -> None:
        raise TypeError("a utility that was computed stays known")

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


class OtherRun(ValueError):
    """The folder holds the journal of another run; ``changed`` names what differs."""

    def __init__(self, folder: Path, changed: list[str]) -> None:
        super().__init__(
            f"{folder} holds another run: {', '.join(changed)} changed since. "
            f"Give another --out, or delete {folder} to begin anew."
        )
        self.changed = changed


class Journal:
    """The folder of one run. ``identity``: what makes it this run and no other; a JSON object."""

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        """Raises ``OtherRun`` where the folder's journal is of another identity."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._state = folder / "state.json"
        self.saved: dict[str, Any] | None = None
        if self._state.exists():
            self.saved = json.loads(self._state.read_text(encoding="utf-8"))
            if changed := differences(self.saved["identity"], identity):
                raise OtherRun(folder, changed)
        self.cache = DiskCache(folder / "cache.jsonl")
        self._identity = identity

    def save(self, **state: Any) -> None:
        self.saved = {"identity": self._identity, **state}
        write_json(self._state, self.saved)


def differences(one: Any, other: Any, place: str = "") -> list[str]:
    """The dotted names of what differs between two JSON values."""
    if isinstance(one, dict) and isinstance(other, dict):
        names = sorted({*one, *other})
        parts = [differences(one.get(name), other.get(name), f"{place}.{name}".lstrip(".")) for name in names]
        return [name for part in parts for name in part]
    return [] if one == other else [place]
