"""Is the challenger better than the champion, on items that no search has seen? Pure.

Both answered the same items, so the comparison is paired: what counts is the difference per item, whose noise is far
smaller than that of either score. Bootstrap: Efron & Tibshirani (1993), chapter 13; for paired comparisons of language
systems Koehn (2004), "Statistical significance tests for machine translation evaluation".

A loop that goes on for ever tests for ever, and of twenty tests at 5% one passes by chance. So the looks at challengers of one
champion share one allowance: look k may spend ``alpha * k^-1.75 / zeta(1.75)`` of it, and all of them together spend alpha,
however many there will be (alpha-spending: Foster & Stine (2008), JRSS B 70:429; as here in Tian & Ramdas (2021), "Online
control of the familywise error rate", section 2, arXiv:1910.04900). It holds however the looks depend on each other, and they
do: each snapshot holds most of the last one's items. The procedures that waste less (LORD, SAFFRON, ADDIS) promise their rate
for independent looks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from registry.gate_policy import GatePolicy
from swarm_worker.no_loss import chance_of_harmless
from swarm_worker.sign_flip import chance_of_gain
from swarm_worker.skew import chance_of_mean

DRAWS = 10_000
LEVEL = 0.95
# Below this many items a percentile bootstrap passes a challenger that is no better more often than it says.
MIN_ITEMS = 30
DRAWS_AT_A_TIME = 500
SPENDING = 1.75
"""Look k may spend ``k^-SPENDING`` of what the first may. About the slowest power whose first look may still spend half of all,
which is the interval's own tail: the correction then costs the first look nothing, and later looks as little as can be."""
_ZETA = 1.9624  # the sum of k^-1.75 over all k is 1.96232: rounded up, so that all looks together spend a little less


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its bootstrap interval. ``p_better``: the share of draws whose mean is above 0."""

    mean: float
    low: float
    high: float
    p_better: float


@dataclass(frozen=True, slots=True)
class Decision:
    """What the gate says, with the numbers that it says it by. Scores and differences are shares (0.26: 26 points).

    ``low``, ``high``: the interval at ``level``. ``look``: the how manieth look this is at a challenger of this champion;
    ``p``: the chance of such a gain if the two are equal (of such a comparison, if it is worse by ``tolerance``), which may be
    ``alpha`` at most. ``tested`` is false with too few items: that is no look, and spends nothing.
    """

    passed: bool
    reason: str
    n: int
    before: float
    after: float
    difference: float
    low: float
    high: float
    p_better: float
    p: float
    alpha: float
    look: int
    level: float
    tolerance: float
    tested: bool

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


def spending(look: int) -> float:
    """The share of one allowance that look ``look`` (1 for the first) may take: those of all looks add up to less than 1."""
    if look < 1:
        raise ValueError(f"looks are counted from 1, not {look!r}")
    return look**-SPENDING / _ZETA


def allowed(gate: GatePolicy, look: int) -> float:
    """The chance of a false promotion that look ``look`` (1 for the first) at a challenger of one champion may take."""
    share = spending(look)
    return (1 - gate.level) * (0.5 if gate.correction == "none" else share)


def decide(
    before: Sequence[float],
    after: Sequence[float],
    *,
    seed: int,
    min_items: int = MIN_ITEMS,
    draws: int = DRAWS,
    gate: GatePolicy = GatePolicy(),  # noqa: B008 - frozen
    look: int = 1,
    accepted: int | None = None,
) -> Decision:
    """The challenger passes when the lower bound of its gain is above 0, on at least ``min_items`` unseen items, and chance
    alone gives such a gain no more often than this look may spend.

    Where the gate has a ``tolerance``, it passes also when that bound is above minus the tolerance, a challenger that is worse
    by as much would look so no more often than this look may spend, and nothing shows it to be worse. Scores then lie in [0, 1].

    ``accepted``: how many of the items are answers that users accepted, where the measure needs some; fewer than the gate asks
    for, and nothing is tested: a challenger that is no better would be right where the champion was wrong, and nobody could
    say where it is the other way round.
    """
    interval = paired_bootstrap(before, after, seed, draws, gate.level)
    n, alpha = len(before), allowed(gate, look)
    difference: list[float] = np.subtract(after, before, dtype=float).tolist()
    p = _by_chance(difference)
    if gate.tolerance:
        # What is shown to be better is shown to be no worse, also where the items are too few for the cautious test of that.
        p = min(p, chance_of_harmless(difference, gate.tolerance))
    mean_before, mean_after = float(np.mean(before)), float(np.mean(after))
    comparison = (
        f"{mean_after:.1%} against {mean_before:.1%} on {n} unseen items: {_points(interval.mean)} points "
        f"({_percent(gate.level)} interval {_points(interval.low)} to {_points(interval.high)})"
    )
    chance = f"by chance {p:.2g}, and look {look} at a challenger of this champion allows {alpha:.2g}"
    one_sided = accepted is not None and accepted < gate.min_accepted
    passed, tested = False, n >= min_items and not one_sided
    if n < min_items:
        reason = f"{comparison}; too few items to decide: {n} of at least {min_items}"
    elif one_sided:
        reason = (
            f"{comparison}; too few of them are answers that users accepted: {accepted} of at least {gate.min_accepted} "
            "(gate.min_accepted). Where all are corrections any change looks better: rate good answers, too"
        )
    elif interval.high < 0:
        reason = f"{comparison}; it is worse"
    elif gate.tolerance and not any(difference):
        reason = f"{comparison}; it differs on none of them, so there is nothing to try"
    elif interval.low <= -gate.tolerance:
        reason = f"{comparison}; the interval does not exclude {_excluded(gate)}"
    elif p > alpha:
        reason = f"{comparison}; not enough: {chance}"
    else:
        within = f"worse by no more than the {100 * gate.tolerance:g} points allowed; " if gate.tolerance else ""
        passed, reason = True, f"{comparison}; {within}{chance}"
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
        p=p,
        alpha=alpha,
        look=look,
        level=gate.level,
        tolerance=gate.tolerance,
        tested=tested,
    )


def accepted(report: Mapping[str, Any]) -> int | None:
    """How many of a confirmation's items are answers that users accepted; None where it was measured by what needs none."""
    return int(report["accepted"]) if report["measure"] == "exact_match" else None


def power(effect: float, spread: float, n: int, level: float = LEVEL, alpha: float | None = None) -> float:
    """The chance that the gate passes a challenger whose true gain is ``effect``, by the normal approximation.

    ``alpha``: what the look allows; it counts where it is less than the interval's own tail.

    ``spread``: the standard deviation of the difference per item (for accuracies about the square root of the share of
    items where the two differ); ``n``: items.
    """
    if spread <= 0 or n < 1:
        raise ValueError(f"power needs a spread above 0 and items, not {spread!r} and {n!r}")
    normal = NormalDist()
    tail = min((1 - level) / 2, 1.0 if alpha is None else alpha)
    return normal.cdf(effect * n**0.5 / spread - normal.inv_cdf(1 - tail))


def _by_chance(difference: Sequence[float]) -> float:
    """The chance of such a gain if the two are equal: by signs, which is exact where all that differ differ by as much, as right
    and wrong do; else no less than what a lopsided sample says."""
    p = chance_of_gain(difference)
    sizes = {abs(one) for one in difference} - {0.0}
    return p if len(sizes) < 2 else max(p, chance_of_mean(difference))


def _excluded(gate: GatePolicy) -> str:
    if gate.tolerance:
        return f"{_points(-gate.tolerance)}, so it may be worse by more than allowed"
    return "0, so it may be no better"


def _percent(level: float) -> str:
    return f"{100 * level:.4g}%"


def _points(share: float) -> str:
    # Adding 0 turns -0.0 into 0.0, which would print a sign of nothing.
    return f"{round(100 * share, 1) + 0:+.1f}"
