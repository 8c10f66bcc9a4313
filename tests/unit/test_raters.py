"""Loud raters: what many ratings by few people are worth."""

from __future__ import annotations

import numpy as np
import pytest

from registry.records import Feedback, now
from swarm_worker.raters import design_effects
from swarm_worker.sequential import Sums, horizon_bound, walk


def said(number: int, rater: str, rating: float, version: int = 2) -> Feedback:
    return Feedback(
        id=f"fb-{number}", adapter="bot", version=version, prompt="q", answer="a", rating=rating, rater=rater, at=now()
    )


def test_ratings_of_different_people_count_in_full() -> None:
    """One each, by name or by nobody: nothing is taken off."""
    ratings = [said(n, f"user-{n}", n % 2) for n in range(100)]
    ratings += [said(n, "anonymous", n % 2, version=1) for n in range(100, 200)]
    assert design_effects(ratings, 2, 1) == (1.0, 1.0)


def test_one_loud_user_counts_as_one() -> None:
    """A version that one person rated a hundred times has one witness, whatever is said of the other."""
    loud = [said(n, "loud", 1.0) for n in range(100)]
    assert design_effects(loud, 2, 1) == (100.0, 1.0)


def test_people_of_fixed_opinion_count_once_each_and_of_changing_opinion_in_full() -> None:
    """Twenty people with ten ratings each: ten times the variance where each repeats himself, hardly more where they vary."""
    fixed = [said(n, f"user-{n % 20}", float(n % 20 < 10)) for n in range(200)]
    varying = [said(n, f"user-{n % 20}", float((n // 20) % 2)) for n in range(200)]
    assert design_effects(fixed, 2, 1)[0] == pytest.approx(10 * 20 / 19)
    assert design_effects(varying, 2, 1)[0] == 1.0


def test_who_judges_both_versions_is_no_cluster() -> None:
    """A program that rates every answer is on both sides: its ratings count one by one."""
    judged = [said(n, "judge", n % 2, version=1 + n % 2) for n in range(200)]
    assert design_effects(judged, 2, 1) == (1.0, 1.0)


def test_equal_versions_with_loud_users_are_rarely_told_apart() -> None:
    """Users with opinions of their own, twenty ratings each, are told apart by naive sums five times as often as they may be;
    with the raters counted, about as often as they may be."""
    rng = np.random.default_rng(1)
    naive = counted = 0
    for _ in range(300):
        sides, ratings = [], []
        for version in (2, 1):
            likes = rng.beta(2, 2, size=40)
            drawn = rng.binomial(20, likes)
            ratings += [
                said(len(ratings), f"{version}-{user}", float(up < drawn[user]), version)
                for user in range(40)
                for up in range(20)
            ]
            sides.append(Sums(800.0, float(drawn.sum())))
        bound = horizon_bound(0.05, 400)
        for effects in ((1.0, 1.0), design_effects(ratings, 2, 1)):
            found = walk([(sides[0], sides[1])], effects=effects)
            over = found is not None and abs(found.place) >= bound
            naive, counted = (naive + over, counted) if effects == (1.0, 1.0) else (naive, counted + over)
    assert naive > 0.25 * 300
    assert counted <= 0.08 * 300
