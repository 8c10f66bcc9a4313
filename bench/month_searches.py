"""What the searches of the simulated months found, kept on disk: ways that have met the same until now need not search again.

A search follows from its snapshot, its pool, its champion, where it begins and its seed; two ways that have made the same moves
have all of these in common.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from registry.canonical import digest
from registry.files import write_atomically

Coefficients = tuple[float, ...]


class Searches:
    """Finds by what they follow from. ``folder``: where they are kept; None: nowhere."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def found(
        self,
        snapshot: str,
        experts: Sequence[Path],
        champion: Path,
        starts: Sequence[Coefficients],
        generations: int,
        seed: int,
        search: Callable[[], Coefficients],
    ) -> Coefficients:
        """What ``search`` returns, or returned when it was asked for the same. ``snapshot``: its digest; the others as ``find``
        has them, folders by their weights."""
        if self.folder is None:
            return search()
        weights = [_weights(folder) for folder in (champion, *experts)]
        kept = self.folder / f"{digest([snapshot, weights, [list(one) for one in starts], generations, seed])}.json"
        if kept.exists():
            return tuple(json.loads(kept.read_text()))
        found = tuple(float(value) for value in search())
        write_atomically(kept, json.dumps(found).encode())  # another way may be about to read it
        return found


def _weights(folder: Path) -> str:
    return hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()
