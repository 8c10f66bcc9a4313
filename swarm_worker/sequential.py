"""Two versions compared on what is counted while both answer, looked at as often as one likes. Pure.

Which of the two answers a user is drawn by lot, so the difference of their means is the effect of the version, and nothing of
the hour or the users: as long as the lot stands. Where it changed (a share was raised), what was counted before and after is
compared apart, stratum by stratum, and added up with the weights that make the sum most precise (Cochran 1954; Mantel and
Haenszel 1959). That sum, in units of its own deviation, walks like Brownian motion in *information*: its time is ``h = sum_k
n1 n0 / (n1 + n0)``, half the harmonic mean of the two counts. An asymptotic statement, as is every one of its kind from sums
alone (Waudby-Smith et al. 2024, "Time-uniform central limit theory and asymptotic confidence sequences", arXiv:2103.06476); the
tests measure what it is worth at small counts.

Two boundaries that such a walk without drift crosses, ever, with at most the chance ``level``:

- ``horizon_bound``: level until a horizon, by the reflection principle, ``P(max_{t <= H} W_t >= b) = 2 P(W_H >= b)``. O'Brien and
  Fleming's (1979) with a look at every moment; hardly higher than that of a single test at the horizon.
- ``mixture_bound``: without a horizon, rising; Robbins' normal mixture, one-sided as in Howard et al. (2021), "Time-uniform,
  nonparametric, nonasymptotic confidence sequences", arXiv:1810.08240, equation 14.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Sums:
    """What was counted of one version in one stratum: how many numbers, their sum, the sum of their squares.

    ``squares`` None: not known; numbers in [0, 1] then count as if each were 0 or 1, the widest that they can spread.
    """

    n: float = 0.0
    total: float = 0.0
    squares: float | None = None

    @property
    def square_sum(self) -> float:
        return self.total if self.squares is None else self.squares

    @property
    def mean(self) -> float | None:
        return self.total / self.n if self.n else None


Stratum = tuple[Sums, Sums]
"""The version on trial, and the champion, while one lot stood."""


@dataclass(frozen=True, slots=True)
class Walk:
    """Where the comparison stands. ``information``: its time; ``place``: above 0 where the version on trial has more.

    ``difference``: of the means, weighted over strata. ``n``: numbers of the version on trial, ``n_champion``: of the champion;
    ``mean``, ``mean_champion``: over all strata.
    """

    information: float
    place: float
    difference: float
    deviation: float
    n: float
    n_champion: float
    mean: float
    mean_champion: float

    @property
    def z(self) -> float:
        """The place in units of its own deviation now."""
        return self.place / math.sqrt(self.information)

    @property
    def p_above(self) -> float:
        """How probable it is that the version on trial has more, by what was counted up to now: the normal approximation, under
        no prior opinion. It knows nothing of how often one looked; the boundaries do."""
        return _NORMAL.cdf(self.z)


def walk(strata: Sequence[Stratum], *, margin: float = 0.0, unit: bool = True, effect: float = 1.0) -> Walk | None:
    """Where the difference of the means, minus ``margin``, has walked to; None while nothing can be compared.

    ``unit``: the numbers lie in [0, 1]. Their variance is then estimated with one 0 and one 1 more on each side, so that a
    handful that are all alike does not pass for certainty (Agresti and Caffo 2000); else as it is. ``effect``: how many times as
    great the variance of the difference is, because the numbers are not independent of each other. Time, and with it every
    boundary, stays as it is; the place is in units of a deviation that is so much greater.
    """
    both = [(ours, theirs) for ours, theirs in strata if ours.n > 0 and theirs.n > 0]
    if not both:
        return None
    variances = [_variance(side, unit, effect) for side in zip(*both, strict=True)]
    information = gained = spread = 0.0
    for ours, theirs in both:
        weight = ours.n * theirs.n / (ours.n + theirs.n)
        information += weight
        gained += weight * (ours.total / ours.n - theirs.total / theirs.n)
        spread += weight**2 * effect * (variances[0] / ours.n + variances[1] / theirs.n)
    n, n_champion = sum(ours.n for ours, _ in both), sum(theirs.n for _, theirs in both)
    deviation = math.sqrt(spread / information)  # of one number, the two sides' taken together
    moved = gained - margin * information
    return Walk(
        information=information,
        place=moved / deviation if deviation else math.copysign(math.inf, moved) if moved else 0.0,
        difference=gained / information,
        deviation=deviation,
        n=n,
        n_champion=n_champion,
        mean=sum(ours.total for ours, _ in both) / n,
        mean_champion=sum(theirs.total for _, theirs in both) / n_champion,
    )


def horizon_bound(level: float, horizon: float) -> float:
    """What the walk reaches before the information ``horizon`` with the chance ``level`` where nothing differs."""
    _require(level, horizon)
    return _NORMAL.inv_cdf(1 - level / 2) * math.sqrt(horizon)


def mixture_bound(level: float, information: float, best_at: float) -> float:
    """What the walk reaches at ``information``, whenever that is, with the chance ``level`` where nothing differs.

    ``best_at``: the information around which it is lowest for its level.
    """
    _require(level, best_at)
    # Howard et al. (2021), section 3.5: rho that makes the boundary tightest at an intrinsic time, near enough.
    rho = best_at / (2 * math.log(1 / level) + math.log(1 + 2 * math.log(1 / level)))
    time = information + rho
    return math.sqrt(2 * time * math.log(math.sqrt(time / rho) / (2 * level) + 1))


def _variance(sides: Iterable[Sums], unit: bool, effect: float) -> float:
    added = ((one.n / effect, one.total / effect, one.square_sum / effect) for one in sides)  # as of independent ones
    n, total, squares = (sum(values) for values in zip(*added, strict=True))
    if unit:
        n, total, squares = n + 2, total + 1, squares + 1
    return max(0.0, squares / n - (total / n) ** 2)


def _require(level: float, information: float) -> None:
    if not 0 < level < 1 or information <= 0:
        raise ValueError(f"a level lies between 0 and 1 and information is above 0, not {level!r} and {information!r}")
