"""A trial, folded from the adapter's history: who is tried against whom, at which shares, and what was counted at each. Pure.

Nothing of a trial is kept beside the history: the event that begins it or changes its share carries the sums of both versions, as
they were read before the move at the revision that it moved (``Registry.start_canary``), so two ticks, or one after a restart,
see the same trial.

Sums grow when feedback arrives, whenever the answer that it rates was given: they say when it is worth looking closer. What a
trial is moved by is counted again, from the ratings of answers that were given during it (``raters.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from registry.ratings import NANO, RATING_SUMS
from registry.records import QUIET, Event, Rollout
from swarm_worker.sequential import Stratum, Sums

Counted = Mapping[str, float]
"""The sums of one version, by the names of ``registry/figures.py``."""
PASSED_OVER = QUIET | {"registry_accepted"}
"""Events in the middle of a trial after which it is the same trial."""
_RATED = frozenset({*RATING_SUMS, "rating_square_nano"})


@dataclass(frozen=True, slots=True)
class Step:
    """A share, and since when. ``begin``: the sums of each version then; ``feedback``: how many there were. ``by_itself``: no
    person asked for it. ``look``: of a recheck, the how manieth of its champion it is."""

    share: float
    at: datetime
    by: str
    begin: Mapping[int, Counted]
    by_itself: bool
    recheck: bool
    run: str | None
    revision: int
    feedback: int
    look: int = 1


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

    @property
    def look(self) -> int:
        return self.began.look

    def strata(
        self, counted: Mapping[int, Counted], said: Sequence[Stratum] | None = None
    ) -> list[tuple[Counted, Counted]]:
        """What was counted at each share up to ``counted``, of the version on trial and of the champion. ``said``: the ratings
        at each share, where they were counted again; they take the place of those in the sums."""
        ends = [*(step.begin for step in self.steps[1:]), counted]
        found = []
        for place, (step, end) in enumerate(zip(self.steps, ends, strict=True)):
            if all(version in sums for version in (self.version, self.champion) for sums in (step.begin, end)):
                ours, theirs = (_since(step.begin[one], end[one]) for one in (self.version, self.champion))
                rated = said[place] if said is not None else (None, None)
                found.append((_again(ours, rated[0]), _again(theirs, rated[1])))
        return found

    def place(self, at: datetime) -> int | None:
        """The share that stood at a moment, 0 for the first; None before the trial."""
        return max((place for place, step in enumerate(self.steps) if step.at <= at), default=None)


def trial_of(rollout: Rollout, newest_first: Iterable[Event]) -> Trial | None:
    """The trial that is going on; None where there is none, or it is one in the shadow."""
    if rollout.challenger is None or rollout.champion is None or rollout.shadow:
        return None
    steps: list[Step] = []
    for event in newest_first:
        if event.revision > rollout.revision or event.kind in PASSED_OVER:
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
        look=int(told.get("look", 1)),
    )


def _since(begin: Counted, end: Counted) -> Counted:
    return {name: end.get(name, 0.0) - begin.get(name, 0.0) for name in {*begin, *end}}


def _again(counted: Counted, rated: Sums | None) -> Counted:
    if rated is None:
        return counted
    kept = {name: amount for name, amount in counted.items() if name not in _RATED}
    told = {"ratings": rated.n, "rating_sum": rated.total, "rating_square_nano": rated.square_sum * NANO}
    return kept | told


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
