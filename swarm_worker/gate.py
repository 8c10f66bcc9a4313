"""Is the challenger better than the champion, on items that no search has seen? Pure.

Both answered the same items, so the comparison is paired: what counts is the difference per item, whose noise is far
smaller than that of either score. Bootstrap: Efron & Tibshirani (1993), chapter 13; for paired comparisons of language
systems Koehn (2004), "Statistical significance tests for machine translation evaluation".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

DRAWS = 10_000
LEVEL = 0.95
# Below this many items a percentile bootstrap passes a challenger that is no better more often than it says.
MIN_ITEMS = 30
DRAWS_AT_A_TIME = 500


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its bootstrap interval. ``p_better``: the share of draws whose mean is above 0."""

    mean: float
    low: float
    high: float
    p_better: float


@dataclass(frozen=True, slots=True)
class Decision:
    """What the gate says, with the numbers that it says it by. Scores and differences are shares (0.26: 26 points)."""

    passed: bool
    reason: str
    n: int
    before: float
    after: float
    difference: float
    low: float
    high: float
    p_better: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def paired_bootstrap(
    before: Sequence[float], after: Sequence[float], seed: int, draws: int = DRAWS, level: float = LEVEL
) -> Interval:
    """The mean of ``after - before``, and the interval that holds ``level`` of its resampled means.

    ``before[i]`` and ``after[i]`` are scores of the same item. Repeatable from ``seed``. Raises ``ValueError`` without
    items, for lists of different lengths and for scores that are not finite.
    """
    if len(before) != len(after) or len(before) == 0:
        raise ValueError(f"paired scores must be as many, and at least one: {len(before)} before, {len(after)} after")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, not {level!r}")
    difference = np.asarray(after, dtype=float) - np.asarray(before, dtype=float)
    if not np.isfinite(difference).all():
        raise ValueError("scores must be finite")
    rng = np.random.default_rng(seed)
    n = len(difference)
    means = np.concatenate(
        [
            difference[rng.integers(n, size=(min(DRAWS_AT_A_TIME, draws - start), n))].mean(axis=1)
            for start in range(0, draws, DRAWS_AT_A_TIME)
        ]
    )
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(difference.mean()), float(low), float(high), float((means > 0).mean()))


def decide(
    before: Sequence[float],
    after: Sequence[float],
    *,
    seed: int,
    min_items: int = MIN_ITEMS,
    draws: int = DRAWS,
    level: float = LEVEL,
) -> Decision:
    """The challenger passes when the lower bound of its gain is above 0, on at least ``min_items`` unseen items."""
    interval = paired_bootstrap(before, after, seed, draws, level)
    n = len(before)
    mean_before, mean_after = float(np.mean(before)), float(np.mean(after))
    comparison = (
        f"{mean_after:.1%} against {mean_before:.1%} on {n} unseen items: {_points(interval.mean)} points "
        f"({level:.0%} interval {_points(interval.low)} to {_points(interval.high)})"
    )
    if n < min_items:
        passed, reason = False, f"{comparison}; too few items to decide: {n} of at least {min_items}"
    elif interval.low > 0:
        passed, reason = True, comparison
    elif interval.high < 0:
        passed, reason = False, f"{comparison}; it is worse"
    else:
        passed, reason = False, f"{comparison}; the interval does not exclude 0, so it may be no better"
    return Decision(
        passed=passed,
        reason=reason,
        n=n,
        before=mean_before,
        after=mean_after,
        difference=interval.mean,
        low=interval.low,
        high=interval.high,
        p_better=interval.p_better,
    )


def power(effect: float, spread: float, n: int, level: float = LEVEL) -> float:
    """The chance that the gate passes a challenger whose true gain is ``effect``, by the normal approximation.

    ``spread``: the standard deviation of the difference per item (for accuracies about the square root of the share of
    items where the two differ); ``n``: items.
    """
    if spread <= 0 or n < 1:
        raise ValueError(f"power needs a spread above 0 and items, not {spread!r} and {n!r}")
    normal = NormalDist()
    return normal.cdf(effect * n**0.5 / spread - normal.inv_cdf((1 + level) / 2))


def _points(share: float) -> str:
    # Adding 0 turns -0.0 into 0.0, which would print a sign of nothing.
    return f"{round(100 * share, 1) + 0:+.1f}"
