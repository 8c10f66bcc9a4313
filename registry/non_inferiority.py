"""How much worse may it be, given what was seen? The interval of a mean paired difference of scores in [0, 1]. Pure.

Two bounds, of which the wider stands. Where many items change: Wald's interval after half an item was added to each of the four
ways in which two right-or-wrong answers can fall; Agresti and Min (2005), "Simple improved confidence intervals for comparing
matched proportions", Statistics in Medicine 24:729. Where few do it is too sure, for nobody knows the spread of what was hardly
seen: of finalists that lose the tolerance and win nothing one in five would pass. So the loss is also what Wilson's bound, with
Yates's half item, makes of the items lost and not won back: the spread is then that of the loss that is to be excluded; Newcombe
(1998), "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17:857.

With both, of finalists that lose the tolerance about one in twenty passes at 95%: at most 7.4 in 100, by exact sums over 30 to
1,000 items, tolerances from the least on and gains up to a tenth. Five items on which nothing changed do not prove that nothing
can, so no other least number of items is needed.
"""

from __future__ import annotations

from math import floor, sqrt
from statistics import NormalDist

_CONTINUITY = 0.5


def interval(n: int, total: float, squares: float, level: float) -> tuple[float, float]:
    """Low and high end, of ``n`` differences with this sum and sum of squares.

    One-sided: each end holds with confidence ``level`` by itself.
    """
    mean, error = _added(n, total, squares)
    z = NormalDist().inv_cdf(level)
    return min(mean - z * error, -_most(n, -total, z)), max(mean + z * error, _most(n, total, z))


def chance_above(bound: float, n: int, total: float, squares: float) -> float:
    """How sure it is that the mean difference is above ``bound``, -1 to 0: the level whose low end is there."""
    mean, error = _added(n, total, squares)
    sure = NormalDist().cdf((mean - bound) / error)
    seen = _CONTINUITY - total
    if bound == 0 or seen < 0:
        return sure
    return min(sure, NormalDist().cdf((-bound * n - seen) / sqrt(-bound * (1 + bound) * n)))


def least_tolerance(n: int, level: float) -> float:
    """The tolerance that ``n`` items can show to be kept when not one of them changes."""
    return -interval(n, 0.0, 0.0, level)[0]


def items_for(tolerance: float, level: float) -> int:
    """The fewest items that can show this tolerance to be kept."""
    z = NormalDist().inv_cdf(level)
    # Wilson's bound of no loss, solved for n; it is always the wider one there.
    b = 2 * _CONTINUITY * tolerance + z**2 * tolerance * (1 - tolerance)
    n = max(1, floor((b + sqrt(b**2 - 4 * (_CONTINUITY * tolerance) ** 2)) / (2 * tolerance**2)) - 1)
    while least_tolerance(n, level) >= tolerance:  # a step or two: the roundings of floats
        n += 1
    return n


def _added(n: int, total: float, squares: float) -> tuple[float, float]:
    """Mean and standard error, half an item added to each of the four ways."""
    m = n + 2
    mean = total / m
    return mean, sqrt(max(0.0, (squares + 1) / m - mean**2) / m)


def _most(n: int, lost: float, z: float) -> float:
    """Wilson's upper bound of the share of ``n`` that is lost, where ``lost`` were; -1, no bound, where some were won."""
    seen = lost + _CONTINUITY
    if seen < 0:
        return -1.0
    a, b = 1 + z**2 / n, 2 * seen + z**2
    return (b + sqrt(max(0.0, b**2 - 4 * a * seen**2))) / (2 * a * n)
