"""Series: what this process counted of each version, for Prometheus; vLLM's own metrics carry the base model's name only.

Not prometheus_client's counters: in the multi-process mode that BentoML sets no series of theirs ever ends, and a loop brings
a new champion a day for as long as the process lives.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate

from registry.figures import FIRST_SECONDS
from registry.records import Rollout

MOST_LABELS = 256
"""Versions with series of their own. Only what rollouts keep loaded comes on top; others beyond it share ``other``."""
MOST_PINNED = 1024
"""The same, with what rollouts keep loaded: a bound of memory, far above what one engine serves."""
OTHER = "other"
ANSWER_SECONDS = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Times:
    """A histogram of seconds."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self.total += seconds

    @property
    def buckets(self) -> list[tuple[str, float]]:
        """Prometheus's: each upper bound, and how many were no longer than that."""
        bounds = [*(str(bound) for bound in self._bounds), "+Inf"]
        return list(zip(bounds, accumulate(self._counts), strict=True))


@dataclass(slots=True)
class Series:
    """What was counted of one version: answers and shadow questions by outcome, tokens, times."""

    requests: Counter[str] = field(default_factory=Counter)
    shadow: Counter[str] = field(default_factory=Counter)
    tokens: float = 0.0
    seconds: Times = field(default_factory=lambda: Times(ANSWER_SECONDS))
    first_seconds: Times = field(default_factory=lambda: Times(FIRST_SECONDS))


class Labels:
    """The series by their label. For one event loop.

    What its rollout keeps loaded (champion, trial, way back, pinned by hand) always has a label; any other version has one
    while there is room. Once it is in no rollout it keeps its label until others need the room: then what was asked least
    recently ends. No series goes down; one that ended and comes back begins at 0, as after a restart."""

    def __init__(self, rollout: Callable[[str], Rollout | None]) -> None:
        self._rollout = rollout
        self._known: dict[str, Series] = {}  # what was asked last is the last
        self._other = Series()

    def of(self, version: str) -> Series:
        """The series to count a version in."""
        found = self._known.pop(version, None)
        if found is None:
            if len(self._known) >= (MOST_PINNED if self._stays(version) else MOST_LABELS):
                return self._other
            found = Series()
        self._known[version] = found
        return found

    def tidy(self) -> None:
        """End the series that there is no room for. Not within ``of``: a look at all of them is too much for an answer."""
        if (over := len(self._known) - MOST_LABELS) > 0:
            for version in [each for each in self._known if not self._stays(each)][:over]:
                del self._known[version]

    def all(self) -> Mapping[str, Series]:
        """Every series by its label."""
        return self._known | ({OTHER: self._other} if self._other.requests or self._other.shadow else {})

    def _stays(self, version: str) -> bool:
        adapter, at, number = version.rpartition("@")
        rollout = self._rollout(adapter) if at else None
        return not at or (rollout is not None and int(number) in rollout.pinned)
