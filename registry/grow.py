"""Beyond the hull: when a run trains an expert of its own, how, and on which items. Pure.

A run that grows trains one more expert with a few gradient steps on the good answers of a part of its search items, before
it searches. Positions are then scored on the other search items alone: an expert that repeats what it was taught says
nothing of what it learned. Confirmation and gate see neither part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from registry.canonical import canonical
from registry.record import Record

if TYPE_CHECKING:
    from registry.records import Run, SnapshotItem, Version

RANK = 8
"""Of a fresh adapter, or the service's highest where that is less."""
ITEM_GENERATIONS_A_STEP = 3
"""Of one item: a forward pass, and a backward pass of about twice its work."""
FEWEST_TAUGHT = 10
"""Fewest items with a good answer that an expert is trained on."""


class Grow(Record):
    """Whether a run trains an expert of its own, and how.

    ``when``: ``stuck`` means that the last ``after`` runs against the champion that answers now found nothing better.
    ``start``: whose function the training begins at: the champion's, whose factors are trained on and keep their rank, or
    the base's, with a fresh adapter of ``rank`` (None: 8, or the service's highest where that is less). ``share``: of the
    search items that have a good answer, the part that is trained on. ``steps`` of ``batch`` items each, at a peak
    learning rate of ``rate``. ``seed``: None is the run's own.
    """

    when: Literal["never", "stuck", "always"] = "never"
    after: int = Field(default=2, ge=1, le=50)
    start: Literal["champion", "base"] = "champion"
    share: float = Field(default=0.5, gt=0, lt=1)
    steps: int = Field(default=60, ge=1, le=10_000)
    rate: float = Field(default=1e-3, gt=0, le=1)
    batch: int = Field(default=16, ge=1, le=1024)
    rank: int | None = Field(default=None, ge=1, le=512)
    seed: int | None = Field(default=None, ge=0)

    @property
    def item_generations(self) -> int:
        """What the training costs."""
        return self.steps * self.batch * ITEM_GENERATIONS_A_STEP


class Growth(Record):
    """What became of it: why the run grows, and the version that was trained, or why none was.

    ``taught``: search items that were trained on and that no position is scored on. ``item_generations``: what the
    training cost, a part of the run's own.
    """

    reason: str
    version: int | None = None
    taught: int = 0
    item_generations: int = 0
    seconds: float = 0.0
    failure: str = ""


def growth(grow: Grow, runs: Iterable[Run], champion: int) -> Growth | None:
    """The growth that a new run begins with, or None where it does not grow.

    ``runs``: those of the adapter, newest first. Runs against another champion, and those that failed or were cancelled, say
    nothing of whether this champion's hull is used up. What passed the gate and lost its trial is nothing better; what is left to
    a person may be.
    """
    if grow.when == "always":
        return Growth(reason="as asked")
    if grow.when == "never":
        return None
    concluded = [
        run.status == "done" and not run.lost_trial
        for run in runs
        if run.champion is not None and run.champion.version == champion and run.status in ("done", "stopped")
    ]
    latest = concluded[: grow.after]
    if len(latest) < grow.after or any(latest):
        return None
    return Growth(reason=f"the last {grow.after} runs against version {champion} found nothing better")


def taught(items: Sequence[SnapshotItem], share: float, seed: int) -> frozenset[str]:
    """The digests of the items that an expert is trained on, of a snapshot's search half: ``share`` of those with a good
    answer, drawn by a hash of each with the seed. The rest scores positions."""
    usable = sorted(
        (item.digest for item in items if item.good is not None),
        key=lambda digest: (hashlib.sha256(canonical({"taught": digest, "seed": seed})).digest(), digest),
    )
    return frozenset(usable[: round(share * len(usable))])


def beyond(champion: Version, experts: Iterable[Version]) -> bool:
    """Whether no mix of the experts is the champion, as far as its lineage says: it is none of them, and was trained, or mixed
    from another one."""
    held = {expert.digest for expert in experts}
    if champion.digest in held:
        return False
    return champion.lineage is None or any(expert.digest not in held for expert in champion.lineage.experts)
