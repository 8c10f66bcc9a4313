"""Which suites may not get worse, and by how much, as frozen records. Pure. Scored and decided in ``swarm_worker/guards.py``."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from registry.errors import BadInput
from registry.non_inferiority import items_for, least_tolerance


class GuardPolicy(BaseModel):
    """A suite that may not get worse by more than ``tolerance`` (a share: 0.02 is 2 points): by its name under the adapter, or
    by its digest, which never changes. ``level``: the confidence with which that must be shown."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    suite: str = Field(min_length=1, max_length=71)
    tolerance: float = Field(gt=0, lt=1)
    level: float = Field(default=0.95, gt=0.5, lt=1)


class Guard(BaseModel):
    """What a run keeps of a guard: the suite's name and bytes, and what was asked of it when the run began."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    suite: str
    digest: str
    items: int
    tolerance: float
    level: float


def resolved(guard: GuardPolicy, digest: str, items: int) -> Guard:
    """The guard with its suite's bytes. BadInput for a tolerance that so few items can never show to be kept: such a guard
    would refuse every finalist."""
    least = least_tolerance(items, guard.level)
    if guard.tolerance <= least:
        raise BadInput(
            f"The guard '{guard.suite}' has {items} items, too few to show a tolerance of {guard.tolerance:g} to be kept even "
            f"where none of them changes. Give at least {least:.3f}, or {items_for(guard.tolerance, guard.level)} items.",
            field="guards",
            least=round(least, 4),
        )
    return Guard(suite=guard.suite, digest=digest, items=items, tolerance=guard.tolerance, level=guard.level)
