"""A trial, folded from the adapter's history: who is tried against whom, at which shares, and what was counted at each. Pure.

Nothing of a trial is kept beside the history: the event that begins it or changes its share carries the sums of both versions at
that moment (``Registry.start_canary``), in the same atomic step, so two ticks, or one after a restart, see the same trial.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from registry.ratings import NANO
from registry.records import QUIET, Event, Rollout
from swarm_worker.sequential import Stratum, Sums

Counted = Mapping[str, float]
"""The sums of one version, by the names of ``registry/figures.py``."""


@dataclass(frozen=True, slots=True)
class Step:
    """A share, and since when. ``begin``: the sums of each version then; ``feedback``: how many there were. ``by_itself``: no
    person asked for it."""

    share: float
    at: datetime
    by: str
    begin: Mapping[int, Counted]
    by_itself: bool
    recheck: bool
    run: str | None
    revision: int
    feedback: int


@dataclass(frozen=True, slots=True)
class Trial:
    """``version`` against ``champion``. ``run``: whose find it is; ``recheck``: it is the version before the champion, and
    what it is tried for is the way back."""

    adapter: str
    version: int
    champion: int
    steps: tuple[Step, ...]

    @property
    def began(self) -> Step:
        return self.steps[0]

    @property
    def now(self) -> Step:
        return self.steps[-1]

    @property
    def by_itself(self) -> bool:
        """No person began it, nor changed it since: who does takes it over."""
        return all(step.by_itself for step in self.steps)

    @property
    def recheck(self) -> bool:
        return self.began.recheck

    @property
    def run(self) -> str | None:
        return self.began.run

    def strata(self, counted: Mapping[int, Counted]) -> list[tuple[Counted, Counted]]:
        """What was counted at each share up to ``counted``, of the version on trial and of the champion."""
        ends = [*(step.begin for step in self.steps[1:]), counted]
        return [
            (_since(step.begin[self.version], end[self.version]), _since(step.begin[self.champion], end[self.champion]))
            for step, end in zip(self.steps, ends, strict=True)
            if all(version in sums for version in (self.version, self.champion) for sums in (step.begin, end))
        ]


def trial_of(rollout: Rollout, newest_first: Iterable[Event]) -> Trial | None:
    """The trial that is going on; None where there is none, or it is one in the shadow."""
    if rollout.challenger is None or rollout.champion is None or rollout.shadow:
        return None
    steps: list[Step] = []
    for event in newest_first:
        if event.revision > rollout.revision or event.kind in QUIET or event.kind == "registry_accepted":
            continue
        if event.kind != "canary_started" or event.version != rollout.challenger:
            break
        steps.append(_step(event))
    if not steps:
        return None
    return Trial(rollout.adapter, rollout.challenger, rollout.champion, tuple(reversed(steps)))


def ratings(strata: Iterable[tuple[Counted, Counted]]) -> list[Stratum]:
    return [(_ratings(ours), _ratings(theirs)) for ours, theirs in strata]


def errors(strata: Iterable[tuple[Counted, Counted]]) -> list[Stratum]:
    return [(_errors(ours), _errors(theirs)) for ours, theirs in strata]


def waits(strata: Iterable[tuple[Counted, Counted]]) -> list[Stratum]:
    """The logarithms of how long users waited, in seconds: what is twice as slow is so by the same step anywhere."""
    return [(_waits(ours), _waits(theirs)) for ours, theirs in strata]


def _step(event: Event) -> Step:
    told: dict[str, Any] = event.details.get("trial") or {}
    begin = {int(version): sums for version, sums in event.details.get("sums", {}).items()}
    return Step(
        share=event.details.get("share", 0.0),
        at=event.at,
        by=event.by,
        begin=begin,
        by_itself=bool(told),
        recheck=bool(told.get("recheck")),
        run=told.get("run"),
        revision=event.revision,
        feedback=int(event.details.get("feedback", 0)),
    )


def _since(begin: Counted, end: Counted) -> Counted:
    return {name: end.get(name, 0.0) - begin.get(name, 0.0) for name in {*begin, *end}}


def _ratings(counted: Counted) -> Sums:
    n = max(0.0, counted.get("ratings", 0.0))
    # One that replaces a rating from before the trial changes the sum alone: a mean stays between 0 and 1 all the same.
    total = min(n, max(0.0, counted.get("rating_sum", 0.0) + counted.get("rating_nano", 0.0) / NANO))
    if "rating_square_nano" not in counted:
        return Sums(n, total)
    return Sums(n, total, min(total, max(0.0, counted["rating_square_nano"] / NANO)))


def _errors(counted: Counted) -> Sums:
    return Sums(max(0.0, counted.get("requests", 0.0)), max(0.0, counted.get("errors", 0.0)))


def _waits(counted: Counted) -> Sums:
    return Sums(
        max(0.0, counted.get("waits", 0.0)),
        counted.get("wait_logs", 0.0),
        max(0.0, counted.get("wait_log_squares", 0.0)),
    )
