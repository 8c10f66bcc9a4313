"""How likely a loss beyond a tolerance would look as harmless as this: a test by betting on paired differences. Pure.

Somebody bets against the claim "the mean difference is the tolerance below 0, or lower" with money that a true claim cannot
multiply: each item pays ``1 + bet * (difference + tolerance)``, whose mean is at most 1 where the claim holds, so what all items
have made of 1 exceeds ``1 / p`` with at most the chance p (Markov). Waudby-Smith and Ramdas (2024), "Estimating means of bounded
random variables by betting", JRSS B 86:1, section 4, arXiv:2010.09686; the mean over several bets is a bet, too. It holds for any
number of items and any differences between -1 and 1.

The sign-flip test (``sign_flip.py``) is no test of this: that an equal version's differences have either sign with the same
chance says nothing of a version that is worse. Nor is a bootstrap: where 100 answers are all alike it is certain of no loss at
all, and a version that loses one answer in a hundred is seen so one time in three.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_BETS = 64


def chance_of_harmless(difference: Sequence[float], tolerance: float) -> float:
    """At most how often a version whose mean is lower by ``tolerance`` or more would show differences as good as these.

    ``difference``: per item, the challenger's score less the champion's, each in [-1, 1]; ``tolerance``: above 0, at most 1. The
    same again for the same differences, in any order. ``ValueError`` for any other.
    """
    told = np.asarray(difference, dtype=float)
    if not np.isfinite(told).all() or (np.abs(told) > 1).any():
        raise ValueError("differences must lie between -1 and 1 where a tolerance is asked for")
    if not 0 < tolerance <= 1:
        raise ValueError(f"a tolerance is above 0 and at most 1, not {tolerance!r}")
    # An item that is wholly lost must leave something: 1 + bet * (tolerance - 1) > 0. The best bet is the gain over the spread:
    # about the tolerance where every item differs, and far more where few do.
    bets = np.geomspace(tolerance / 4, 0.99 / max(1 - tolerance, 0.01), _BETS)
    made = np.log1p(np.outer(bets, told + tolerance)).sum(axis=1)
    best = made.max()
    mean = best + np.log(np.exp(made - best).mean())  # of sums whose exponentials may not fit a float
    return float(np.exp(-max(0.0, mean)))
