"""Has the champion's live rating fallen? Its latest ratings against those it had when it was new. Pure.

The test is that of two independent proportions after one good and one bad rating were added to each side (Agresti and Caffo
(2000), The American Statistician 54:280), which holds where all ratings are alike, too; stars between are taken as they are. The
ratings that count as latest come in blocks that begin when the adapter's last run began: a block is tested once, when it is
whole, so that a tick more is not a test more, and a run answers for what came before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

from registry.drop_policy import DropPolicy


@dataclass(frozen=True, slots=True)
class Drop:
    """What one test says. ``p``: the chance of such a fall, or a greater one, if it had fallen by ``by`` and no more."""

    dropped: bool
    first: float
    latest: float
    n: int
    p: float

    def __str__(self) -> str:
        told = f"{self.n} ratings each, by chance {self.p:.2g}"
        return f"the champion's rating fell from {self.first:.2f} to {self.latest:.2f} ({told})"


def drop_of(ratings: Sequence[float], new: int, policy: DropPolicy) -> Drop | None:
    """The test of the latest whole block; None where there is none yet.

    ``ratings``: of the champion since it is champion, oldest first; ``new``: how many of them came since the last run began.
    """
    n = policy.ratings
    begins = max(len(ratings) - new, n)  # no rating is on both sides
    blocks = (len(ratings) - begins) // n
    if blocks < 1:
        return None
    return _compare(ratings[:n], ratings[begins + (blocks - 1) * n : begins + blocks * n], policy)


def _compare(first: Sequence[float], latest: Sequence[float], policy: DropPolicy) -> Drop:
    n = len(first)
    sides = [_moments(side) for side in (first, latest)]
    fall = sides[0][0] - sides[1][0]
    error = sqrt(sum(variance for _, variance in sides) / (n + 2))
    p = 1 - NormalDist().cdf((fall - policy.by) / error)
    return Drop(p <= 1 - policy.level, sum(first) / n, sum(latest) / n, n, p)


def _moments(ratings: Sequence[float]) -> tuple[float, float]:
    """Mean and variance with a rating of 1 and one of 0 more: the variance is never 0."""
    m = len(ratings) + 2
    mean = (sum(ratings) + 1) / m
    return mean, (sum(rating**2 for rating in ratings) + 1) / m - mean**2
