"""How a version is tried on real traffic before it becomes champion, as a frozen record. Pure. docs/adaptation.md explains it."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from registry.durations import Seconds
from registry.records import Record

Share = Annotated[float, Field(gt=0.0, lt=1.0)]
"""Of the traffic. The champion needs some, too: it is what the version on trial is compared with, at the same time."""
HOUR, DAY = 3600.0, 86400.0


class CanaryPolicy(Record):
    """How trials begin, and what decides those that go by themselves.

    ``share``: of the traffic, 0 to 1, for a trial whose caller names none. ``automatic``: what a run finds goes on trial
    instead of being promoted at once, and is promoted, kept back or left by what its users say; and every trial, a person's
    too, ends when the version is worse. Off by default: an adapter whose answers nobody rates would never learn of its trial.

    The way up: ``steps``, the shares; each is held for ``dwell`` seconds and until ``min_ratings`` of the version's answers were
    rated at it. The first is held until ``early_ratings`` of them were, all in all: from then on a version that does not lead by
    at least ``early_lead`` (and later, that does not lead) is given up, undecided. What is still undecided when the two sides'
    ratings are worth ``max_ratings`` each (their harmonic mean), or after ``longest`` seconds, ends so.

    What counts as evidence: ``false_moves`` is the chance that the trial of a version that is no different ends in a promotion
    or in blame, however often it is looked at; half of it for each. ``tolerance``: in rating, 0 to 1; a version that is worse by
    no more is not blamed, and with ``promote_on`` "no_worse" promoted once it is shown to be no worse than that.
    ``max_error_rate``: by how much its share of errors may be above the champion's; ``max_slowdown``: how many times as long its
    users may wait.

    ``watch_champion``: when the champion's live rating falls below that of the version before it, that one goes on trial
    against it, and the champion is rolled back if it is shown to be worse.
    """

    share: float = Field(default=0.05, ge=0.0, le=1.0)
    automatic: bool = False
    steps: tuple[Share, ...] = Field(default=(0.05, 0.25, 0.5), min_length=1, max_length=20)
    dwell: Seconds = HOUR
    longest: Seconds = 14 * DAY
    min_ratings: int = Field(default=30, ge=20)
    early_ratings: int = Field(default=190, ge=20)
    early_lead: float = Field(default=0.025, ge=-1.0, le=1.0)
    max_ratings: int = Field(default=1500, ge=20)
    false_moves: float = Field(default=0.02, gt=0.0, lt=0.5)
    promote_on: Literal["better", "no_worse"] = "better"
    tolerance: float = Field(default=0.0, ge=0.0, le=1.0)
    max_error_rate: float = Field(default=0.02, ge=0.0, le=1.0)
    max_slowdown: float = Field(default=1.5, ge=1.0, allow_inf_nan=False)
    watch_champion: bool = False

    @field_validator("steps")
    @classmethod
    def _rising(cls, steps: tuple[float, ...]) -> tuple[float, ...]:
        if any(after <= before for before, after in pairwise(steps)):
            raise ValueError("the shares must rise from step to step")
        return steps

    @model_validator(mode="after")
    def _no_worse_than_what(self) -> CanaryPolicy:
        if self.promote_on == "no_worse" and not self.tolerance:
            raise ValueError(
                "promote_on 'no_worse' needs a tolerance above 0: nothing can be shown to be no worse at all"
            )
        if 2 * self.early_ratings > self.max_ratings:
            raise ValueError("max_ratings must be at least twice early_ratings")
        return self
