"""What a version is made of, as a tree down to the imports. Reads only the versions that the tree names, each once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from registry.errors import VersionUnknown
from registry.records import ExpertRef, Lineage, Version

DEPTH = 50
"""Levels that one tree shows; JSON readers give up on values that are nested some hundreds deep."""


def lineage_tree(version_of: Callable[[int], Version], number: int, depth: int = DEPTH) -> dict[str, Any]:
    """Each node a version of one adapter, under ``experts`` those it was mixed from, or the one it was trained from.

    ``VersionUnknown`` for the first. A version is opened once; where it comes again its node has no ``experts`` and
    ``"repeated": True``. Below ``depth`` levels a node has ``"deeper": True`` instead: its own lineage goes on from there.
    Retired versions are shown as any.
    """
    first = version_of(number)
    read: dict[int, Version | None] = {number: first}

    def known(expert: ExpertRef) -> Version | None:
        if expert.version not in read:
            try:
                read[expert.version] = version_of(expert.version)
            except VersionUnknown:
                read[expert.version] = None
        found = read[expert.version]
        # The base as an expert, or a version of another line, is no version of this adapter: only its name is known.
        return found if found and found.digest == expert.digest else None

    root: dict[str, Any] = {}
    opened: set[int] = set()
    # A stack, not a recursion: a line of versions, each made from the one before, may be of any length.
    waiting: list[tuple[dict[str, Any], Version, int]] = [(root, first, 1)]
    while waiting:
        node, version, level = waiting.pop()
        node |= _facts(version) | {key: node[key] for key in ("name", "coefficient", "coefficients") if key in node}
        made = _experts_of(version)
        if not made:
            continue
        if version.version in opened:
            node["repeated"] = True
        elif level > depth:
            node["deeper"] = True
        else:
            opened.add(version.version)
            node["experts"] = [told for _, told in made]
            below = [
                (child, found, level + 1)
                for child, (expert, _) in zip(node["experts"], made, strict=True)
                if (found := known(expert)) is not None
            ]
            waiting.extend(reversed(below))  # the first expert is opened first, as the tree is drawn
    return root


def _experts_of(version: Version) -> list[tuple[ExpertRef, dict[str, Any]]]:
    """What a version was made from, and how the tree tells of it: a mix from its experts, a trained expert from its start."""
    if (made := version.lineage) is not None:
        return [(expert, _expert(made, index)) for index, expert in enumerate(made.experts)]
    start = version.training.start if version.training else None
    return [(start, start.model_dump())] if start else []


def _expert(made: Lineage, index: int) -> dict[str, Any]:
    """An expert by its name alone; one coefficient, or with a larger hull all of its own, in the position's order."""
    own = made.coefficients_of(index)
    told = {"coefficient": own[0]} if len(own) == 1 else {"coefficients": list(own)}
    return made.experts[index].model_dump() | told


def _facts(version: Version) -> dict[str, Any]:
    made = version.lineage
    node: dict[str, Any] = {
        "adapter": version.adapter,
        "version": version.version,
        "name": version.label or f"v{version.version}",
        "digest": version.digest,
        "origin": version.origin,
        "rank": version.rank,
        "created_at": version.created_at.isoformat(),
        "created_by": version.created_by,
        "note": version.note,
        "source": version.source,
        "retired": version.retired,
    }
    if (trained := version.training) is not None:
        training = trained.model_dump(exclude={"run_id", "snapshot", "seed", "start", "environment"})
        told = {"run_id": trained.run_id, "snapshot": trained.snapshot, "seed": trained.seed}
        return node | told | {"training": training | {"start": trained.start.name if trained.start else "the base"}}
    if made is None:
        return node
    kept = ("run_id", "formula", "space", "optimizer", "retained_energy", "snapshot", "seed", "gate")
    return node | {key: getattr(made, key) for key in kept}
