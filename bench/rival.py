"""One of the processes of ``bench/rivals.py``: it promotes what it likes, over and over, until it is killed or told to stop.

Everything it does stands in its journal first, so that its next life can finish what a kill cut off: the same operation,
under the same id, is asked again and must be answered as it was the first time.
"""

from __future__ import annotations

import json
import random
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from registry.errors import RolloutMoved
from registry.registry import Registry
from registry.settings import RegistrySettings

ADAPTER = "rivals"
BEAT = 0.1  # seconds: all rivals decide at the same moments, on the same rollout, so that only one of them can win


def main(journal: Path, number: int, *, settle_only: bool) -> None:
    """Finish what is unfinished; then, unless ``settle_only``, go on promoting for ever."""
    registry = Registry.open(RegistrySettings.load())
    for unanswered in open_operations(read(journal)):
        _promote(registry, journal, number, unanswered)
    if settle_only:
        return
    versions = [version.version for version in registry.versions(ADAPTER)]
    while True:
        seen = registry.rollout(ADAPTER)
        time.sleep(BEAT - time.time() % BEAT)
        operation = {
            "id": uuid.uuid4().hex,
            "expected": seen.revision,
            "version": random.choice([version for version in versions if version != seen.champion]),
        }
        _write(journal, {"began": operation})
        _promote(registry, journal, number, operation)


def _promote(registry: Registry, journal: Path, number: int, operation: dict[str, Any]) -> None:
    told: dict[str, Any] = {"id": operation["id"], "revision": None}
    try:
        after = registry.promote(
            ADAPTER,
            operation["version"],
            by=f"rival-{number}",
            expected_revision=operation["expected"],
            operation_id=operation["id"],
        )
        told["revision"] = after.revision
    except RolloutMoved:
        pass
    _write(journal, {"ended": told})


def read(journal: Path) -> list[dict[str, Any]]:
    """The lines of a journal; a last one that a kill cut off never happened."""
    lines = journal.read_text().splitlines(keepends=True) if journal.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def open_operations(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Operations that began and of which no answer is known."""
    ended = {line["ended"]["id"] for line in lines if "ended" in line}
    return [line["began"] for line in lines if "began" in line and line["began"]["id"] not in ended]


def _write(journal: Path, line: dict[str, Any]) -> None:
    with journal.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), settle_only=sys.argv[3:] == ["settle"])
