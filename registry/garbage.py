"""Garbage collection: bytes that no record names are deleted, and what dead writers left behind.

Left alone: what any record names (versions of every adapter, retired ones too; snapshots, experts and finalists of runs),
and what was announced or written since the grace period before the records were read: its registration may be on the way, or
too new to be among them. Scratch in which anything was written within the last hour is left alone however short the grace is:
its writer may be at work. One place belongs to one Shoal: the bytes of another one would look like garbage.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.arrivals import Arrivals
from registry.cache import clear, leftovers
from registry.errors import Conflict
from registry.keys import Keys
from registry.named import named
from registry.place import Place

if TYPE_CHECKING:
    from registry.registry import Registry

GRACE_SECONDS = 24 * 3600.0
SCRATCH_SECONDS = 3600.0  # the least age of scratch that is taken for a dead writer's: no write pauses for that long


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection deleted, or would delete. ``what``: a digest, or the path of a leftover folder."""

    what: str
    size: int


@dataclass(frozen=True, slots=True)
class Collection:
    """One collection: what went, how much stays because a record names it, how much because it is young."""

    dry_run: bool
    collected: tuple[Collected, ...]
    kept: int
    young: int

    @property
    def size(self) -> int:
        return sum(each.size for each in self.collected)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "collected": [asdict(each) for each in self.collected], "bytes": self.size}


def collect(registry: Registry, *, dry_run: bool, grace: float = GRACE_SECONDS) -> Collection:
    """Deletes what no record names and no registration in flight announced, from ``grace`` seconds before this began on.

    ``dry_run``: the same answer, and nothing is touched. Conflict where the records name nothing at all but bytes are
    there: that is an empty Redis, or another Shoal's place, and rarely what was meant.
    """
    keys, place = Keys(registry.settings.namespace), registry.artifacts.place
    arrivals = Arrivals(registry.redis, keys)
    listed = place.listing()
    before, since = time.time() - grace, arrivals.since(grace)
    known = named(registry.redis, keys)
    if listed and not any(stored.digest in known for stored in listed):
        raise Conflict(
            f"No record names any of the {len(listed)} objects in {place.url}: is this the right Redis "
            "(SHOAL_REDIS_URL, SHOAL_NAMESPACE) for this place? Nothing was deleted."
        )
    gone: list[Collected] = []
    young = 0
    for stored in listed:
        if stored.digest in known:
            continue
        if stored.at > before or not _take(place, arrivals, stored.digest, since=since, dry_run=dry_run):
            young += 1
        else:
            gone.append(Collected(stored.digest, stored.size))
    if not dry_run:
        arrivals.tidy(min(since, arrivals.since(GRACE_SECONDS)))  # another collection may have begun long ago
    dead = min(before, time.time() - SCRATCH_SECONDS)
    roots = {registry.artifacts.cache.root, *([Path(place.root)] if place.local else [])}
    for path, size in [found for root in sorted(roots) for found in leftovers(root, dead)]:
        if not dry_run:
            clear(path)
        gone.append(Collected(str(path), size))
    return Collection(dry_run, tuple(gone), kept=sum(stored.digest in known for stored in listed), young=young)


def _take(place: Place, arrivals: Arrivals, digest: str, *, since: int, dry_run: bool) -> bool:
    """Deletes one digest unless it was announced at ``since`` or later: a registration that came between keeps its bytes."""
    if dry_run:
        return not arrivals.announced(digest, since)
    if not arrivals.condemn(digest, since):
        return False
    try:
        place.delete(digest)
    finally:
        arrivals.pardon(digest)
    return True
