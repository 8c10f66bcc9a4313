"""The ratings of one trial and who gave them: counted again by share, and how much less they say where a few gave many. Pure.

A user stays with one version while a share stands, so the ratings of one user are no independent witnesses: forty of the same
opinion say little more than one. And one user's witness does not end where he is moved from the champion to the version on
trial. So a rater is one cluster over both sides and all shares, and what counts is how far the *difference* between the versions
depends on single raters: its variance when each rater in turn is left out (the jackknife by clusters; MacKinnon, Nielsen and Webb
2023, "Cluster-robust inference: a guide to empirical practice", arXiv:2205.03285, CV3), over the same with each rating left out
by itself. That ratio is the design effect (Kish 1965). Who rates both versions alike in number, a judge, moves the means of
both together and cancels.

Leaving out tells nothing where few give most, or all on a side say the same. There every rater is taken to have one opinion for
everything that he rates, which is the worst that can be as long as he does not hold another of each version: his weight
is then what he adds to the mean of the one side less what he adds to that of the other.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import count

import numpy as np
from numpy.typing import NDArray

from registry.records import ANONYMOUS, Feedback
from swarm_worker.sequential import Stratum, Sums
from swarm_worker.trial import Trial

FEW = 10
"""Of fewer raters than this (as many of equal weight) the spread cannot be told."""
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Rated:
    """One rating: of an answer at which share (0 for the first), by the version on trial or the champion, by whom."""

    step: int
    ours: bool
    rater: Hashable
    rating: float


def rated_during(trial: Trial, feedbacks: Iterable[Feedback], answered: Mapping[str, datetime]) -> list[Rated]:
    """The ratings of answers that were given during the trial, each at the share that stood then.

    ``feedbacks``: what stands of what came since the trial began. ``answered``: when the answer to a request was given; where
    that is not known, the feedback's own time counts. Who gives no name is one with his conversation, else with nobody.
    """
    nobody, found = count(), []
    for said in feedbacks:
        if said.rating is None or said.version not in (trial.version, trial.champion):
            continue
        step = trial.place(answered.get(said.request_id or "", said.at))
        if step is None:
            continue
        rater: Hashable = next(nobody)
        if said.rater != ANONYMOUS:
            rater = ("rater", said.by, said.rater)
        elif said.conversation is not None:
            rater = ("conversation", said.by, said.conversation)
        found.append(Rated(step, said.version == trial.version, rater, said.rating))
    return found


def rating_sums(rated: Iterable[Rated], steps: int) -> list[Stratum]:
    """The sums at each share, of the version on trial and of the champion."""
    sums = np.zeros((steps, 2, 3))
    for one in rated:
        sums[one.step, 0 if one.ours else 1] += 1, one.rating, one.rating**2
    return [(Sums(*map(float, ours)), Sums(*map(float, theirs))) for ours, theirs in sums]


def design_effect(rated: Sequence[Rated]) -> float:
    """How many times as great the variance of the difference is as the ratings would show if each were by another: 1 or more."""
    by_rater, by_rating = _grouped(rated, [one.rater for one in rated]), _grouped(rated, range(len(rated)))
    comparable = (by_rater.sum(axis=0)[..., 0] > 0).all(axis=1) if len(by_rater) else np.zeros(0, dtype=bool)
    if len(by_rater) == len(by_rating) or not comparable.any():
        return 1.0
    influence = _influence(by_rater[:, comparable]) ** 2
    alike = float(influence.sum())
    few = alike**2 < FEW * float((influence**2).sum())
    sides = [{one.rating for one in rated if one.ours is ours and comparable[one.step]} for ours in (True, False)]
    independent = _left_out(by_rating)
    spread = _left_out(by_rater) / independent if independent else 0.0
    return max(1.0, spread, alike if few or not independent or min(map(len, sides)) < 2 else 0.0)


def _grouped(rated: Sequence[Rated], names: Iterable[Hashable]) -> Array:
    """How many ratings each cluster gave, and their sum: cluster, share, side, (n, total)."""
    places: dict[Hashable, int] = {}
    clusters = [places.setdefault(name, len(places)) for name in names]
    found = np.zeros((len(places), 1 + max((one.step for one in rated), default=-1), 2, 2))
    for cluster, one in zip(clusters, rated, strict=True):
        found[cluster, one.step, 0 if one.ours else 1] += 1, one.rating
    return found


def _left_out(clusters: Array) -> float:
    """The jackknife's variance of the difference. A cluster without which nothing can be compared adds nothing here."""
    whole = clusters.sum(axis=0)
    moved = _difference(whole - clusters) - _difference(whole)
    return float(np.nansum(moved**2)) * (len(clusters) - 1) / len(clusters)


def _difference(counted: Array) -> Array:
    """Of the means, as ``walk`` weighs the shares; nan where no share has both sides."""
    n, total = counted[..., 0], counted[..., 1]
    both: NDArray[np.bool_] = np.all(n > 0, axis=-1)
    n = np.where(both[..., None], n, 1.0)
    weight = np.where(both, n.prod(axis=-1) / n.sum(axis=-1), 0.0)
    means = total / n
    information = weight.sum(axis=-1)
    gained = (weight * (means[..., 0] - means[..., 1])).sum(axis=-1)
    return np.where(information > 0, gained / np.where(information > 0, information, 1.0), np.nan)


def _influence(clusters: Array) -> Array:
    """What one opinion of each cluster, held of all that it rated, moves the difference by, in units such that the squares of
    clusters of one rating each add up to 1."""
    n = clusters[..., 0]
    sides = n.sum(axis=0)
    weight = sides.prod(axis=-1) / sides.sum(axis=-1)
    shares = n / sides
    moved: Array = (weight * (shares[..., 0] - shares[..., 1])).sum(axis=-1) / np.sqrt(weight.sum())
    return moved
