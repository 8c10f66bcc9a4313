"""How likely chance alone gives a gain as large as this one: the sign-flip test of paired differences, exactly. Pure.

Fisher (1935), The Design of Experiments, section 21; for language systems: Dror et al. (2018), "The Hitchhiker's Guide to
Testing Statistical Significance in NLP", section 3.2. If two versions are equally good, each item's difference has either sign
with the same chance, so the distribution of the sum is that of all 2^n choices of signs. For right-or-wrong answers it is
McNemar's exact test. A bootstrap cannot say how small a small chance is: its draws number some thousands, and with few items
that differ it calls one-sided luck certain (4 of 100 differ, all for the better: chance alone 6.2%, bootstrap 1.7%).
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

_FINEST = 2520
"""Steps that the largest difference is told in: a multiple of 1 to 10, so that halves, thirds, tenths are told exactly."""
_MOST = 2**18
"""Steps that all differences have together: the length of the distribution."""
_MANY = 1000
"""Above so many differences the normal distribution is as good: at 4 standard errors it is 2% off, and less with more."""


def chance_of_gain(difference: Sequence[float]) -> float:
    """The chance that signs drawn by a fair coin give a sum of at least that of ``difference``; 1 where nothing differs.

    Exact, up to a grid that differences are rounded to; the same again for the same differences. ``ValueError`` for one that is
    not finite.
    """
    signed = np.asarray(difference, dtype=float)
    if not np.isfinite(signed).all():
        raise ValueError("differences must be finite")
    size = np.abs(signed)
    if size.size == 0 or size.max() == 0:
        return 1.0
    if np.count_nonzero(size) > _MANY:
        return NormalDist().cdf(float(-signed.sum() / np.sqrt((size**2).sum())))
    steps = np.rint(size * min(_FINEST / size.max(), _MOST / size.sum())).astype(np.int64)
    gained = int(steps[signed > 0].sum())
    steps = steps[steps > 0]
    step = int(np.gcd.reduce(steps))
    # chance[s]: that the differences with a plus are s steps together; a sum of at least ours is a plus side of at least ours
    chance = np.ones(1)
    for width in steps // step:
        wider = np.zeros(len(chance) + width)
        wider[: len(chance)] += chance / 2
        wider[width:] += chance / 2
        chance = wider
    return float(min(1.0, chance[gained // step :].sum()))
