"""How much worse may it be, given what was seen? The interval of a mean paired difference of scores in [0, 1]. Pure.

Wald's interval after half an item was added to each of the four ways in which two right-or-wrong answers can fall: Agresti and
Min (2005), "Simple improved confidence intervals for comparing matched proportions", Statistics in Medicine 24:729. Without that,
a suite of five items on which nothing changed would prove that nothing can; so, its bound is what five items can tell, and no
other least number of items is needed.
"""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist


def interval(n: int, total: float, squares: float, level: float) -> tuple[float, float, float]:
    """Low end, high end and standard error, of ``n`` differences with this sum and sum of squares.

    One-sided: each end holds with confidence ``level`` by itself.
    """
    m = n + 2
    mean = total / m
    error = sqrt(max(0.0, (squares + 1) / m - mean**2) / m)
    z = NormalDist().inv_cdf(level)
    return mean - z * error, mean + z * error, error


def least_tolerance(n: int, level: float) -> float:
    """The tolerance that ``n`` items can show to be kept when not one of them changes."""
    return -interval(n, 0.0, 0.0, level)[0]


def items_for(tolerance: float, level: float) -> int:
    """The fewest items that can show this tolerance to be kept."""
    n = 1
    while least_tolerance(n, level) >= tolerance:
        n += 1
    return n
