"""How much less a trial's ratings say because some people gave many of them. Pure.

A user stays with one version for a whole trial, so the ratings of one user are no independent witnesses: forty of the same
opinion say little more than one. What counts is the variance of the raters' sums (Liang and Zeger 1986, with the correction
for few clusters); its ratio to what independent ratings would have is the design effect (Kish 1965). Whoever rates both versions
(a person who judges a sample, a program) was not drawn to one of them: his ratings count one by one. So do those that name
nobody.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import count

import numpy as np

from registry.records import ANONYMOUS, Feedback

FEW = 10
"""Of fewer raters than this the spread cannot be told: each is then taken to rate everything alike."""


def design_effects(feedbacks: Iterable[Feedback], version: int, champion: int) -> tuple[float, float]:
    """By how much the variance of the mean is greater than the ratings alone would show, of each version; 1 or more."""
    nobody = count()
    sides: dict[int, dict[object, list[float]]] = {version: defaultdict(list), champion: defaultdict(list)}
    for said in feedbacks:
        if said.version in sides and said.rating is not None:
            named = said.rater != ANONYMOUS
            sides[said.version][(said.by, said.rater) if named else next(nobody)].append(said.rating)
    both = sides[version].keys() & sides[champion].keys()
    return _effect(sides[version], both), _effect(sides[champion], both)


def _effect(raters: dict[object, list[float]], both: Iterable[object]) -> float:
    apart = set(both)
    groups = [ratings for rater, ratings in raters.items() if rater not in apart]
    groups += [[rating] for rater in apart for rating in raters[rater]]
    sizes = np.array([len(ratings) for ratings in groups], dtype=float)
    if not sizes.size or sizes.max() == 1:
        return 1.0
    alike = float((sizes**2).sum() / sizes.sum())
    values = np.concatenate([np.asarray(ratings) for ratings in groups])
    independent = float(((values - values.mean()) ** 2).sum())
    if len(groups) < FEW or not independent:
        return alike
    of_sums = sum(float((np.asarray(ratings) - values.mean()).sum()) ** 2 for ratings in groups)
    return max(1.0, len(groups) / (len(groups) - 1) * of_sums / independent)
