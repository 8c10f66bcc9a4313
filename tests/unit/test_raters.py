"""Loud raters: what many ratings by few people are worth, over both versions and all shares of a trial."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from registry.canary_policy import CanaryPolicy
from registry.records import Feedback, now
from registry.standing import standing
from swarm_worker.raters import Rated, design_effect, rated_during, rating_sums
from swarm_worker.sequential import horizon_bound, walk
from swarm_worker.trial import Step, Trial
from swarm_worker.verdict import Verdict, judge

POLICY = CanaryPolicy()


def said(rater: object, rating: float, *, ours: bool = True, step: int = 0) -> Rated:
    return Rated(step, ours, rater, rating)


def crowd(n: int, mean: float, *, ours: bool, step: int = 0) -> list[Rated]:
    """So many people, each of whom rates once."""
    up = round(n * mean)
    return [said((ours, step, number), float(number < up), ours=ours, step=step) for number in range(n)]


def verdict(rated: list[Rated], steps: int) -> Verdict:
    sums = rating_sums(rated, steps)
    strata: Any = [
        tuple({"ratings": one.n, "rating_sum": one.total, "rating_square_nano": one.square_sum * 1e9} for one in pair)
        for pair in sums
    ]
    return judge(POLICY, strata, first_share=steps == 1, effect=design_effect(rated))


def test_ratings_of_different_people_count_in_full() -> None:
    """One each: nothing is taken off, exactly."""
    assert design_effect([*crowd(100, 0.6, ours=True), *crowd(1900, 0.5, ours=False)]) == 1.0
    assert design_effect([]) == 1.0
    assert design_effect(crowd(100, 0.6, ours=True)) == 1.0


def test_one_loud_user_counts_as_one() -> None:
    """A version that one person rated a hundred times has one witness, however many the champion has."""
    rated = [*(said("loud", 1.0) for _ in range(100)), *crowd(1900, 0.5, ours=False)]
    assert design_effect(rated) == pytest.approx(95, rel=0.02)  # 100 ratings beside 1,900 are worth 95 each


@pytest.mark.parametrize("liked", [0.0, 1.0])
def test_a_user_who_was_moved_over_does_not_decide_alone(liked: float) -> None:
    """Who rated the champion once while it was his, and the version hundreds of times since the share was raised, is one witness:
    the version is neither promoted nor blamed. The same ratings by as many people decide. (That a version does not lead ends its
    trial, and blames nobody.)"""
    early = [*crowd(190, 0.55, ours=True), *crowd(3600, 0.5, ours=False)]
    sticky = [said("sticky", 0.0, ours=False), *(said("sticky", liked, step=1) for _ in range(250))]
    late = crowd(750, 0.5, ours=False, step=1)
    assert verdict([*early, *sticky, *late], 2).kind == ("go_on" if liked else "undecided")
    assert verdict([*early, *crowd(250, liked, ours=True, step=1), *late], 2).kind == ("better" if liked else "worse")


@pytest.mark.parametrize("liked", [0.0, 1.0])
@pytest.mark.parametrize("others", [0, 3, 30])
def test_a_flooder_does_not_buy_himself_off_with_one_rating_of_the_champion(liked: float, others: int) -> None:
    """He asks the champion once and rates it, then floods the version on trial, alone there or beside a few who agree."""
    flooder = [said("flooder", 0.5, ours=False), *(said("flooder", liked) for _ in range(250))]
    rated = [*flooder, *crowd(others, liked, ours=True), *crowd(500, 0.5, ours=False)]
    assert verdict(rated, 2).kind == ("go_on" if liked else "undecided")


def test_a_flooder_of_both_sides_beside_others_does_not_decide() -> None:
    """Hundreds of thumbs down for the champion and up for the version by one person, where others see no difference."""
    flooder = [said("flooder", float(ours), ours=ours) for ours in (True, False) for _ in range(250)]
    rated = [*flooder, *crowd(100, 0.5, ours=True), *crowd(100, 0.5, ours=False)]
    assert verdict(rated, 2).kind == "go_on"
    assert design_effect(rated) > 100


def test_many_people_decide_as_before_also_where_the_share_was_raised() -> None:
    """Raters of one rating each, at three shares: what is 12 points better is found as with plain sums."""
    rated = [
        one
        for step, (n, m) in enumerate([(190, 3600), (200, 600), (300, 300)])
        for one in [*crowd(n, 0.62, ours=True, step=step), *crowd(m, 0.5, ours=False, step=step)]
    ]
    assert design_effect(rated) == 1.0
    assert verdict(rated, 3).kind == "better"


def test_people_of_fixed_opinion_count_once_each_and_of_changing_opinion_in_full() -> None:
    """Twenty people a side with ten ratings each: ten times the variance where each repeats himself, no more where they vary."""
    places = [(ours, n) for ours in (True, False) for n in range(200)]
    fixed = [said((ours, n % 20), float(n % 20 < 10), ours=ours) for ours, n in places]
    varying = [said((ours, n % 20), float((n // 20) % 2), ours=ours) for ours, n in places]
    assert design_effect(fixed) == pytest.approx(10.5, rel=0.1)
    assert design_effect(varying) == 1.0


@pytest.mark.parametrize("people", [0, 200])
def test_a_judge_of_both_versions_cancels(people: int) -> None:
    """A program that rates the answers of both versions alike, alone or beside people: what it says counts one by one."""
    judged = [said("judge", float(n % 2), ours=ours) for ours in (True, False) for n in range(200)]
    rated = [*judged, *crowd(people, 0.5, ours=True), *crowd(people, 0.5, ours=False)]
    assert design_effect(rated) == 1.0


def test_a_judge_still_finds_what_is_better() -> None:
    """Alone, with 300 answers of each version."""
    judged = [said("judge", float(n < (225 if ours else 150)), ours=ours) for ours in (True, False) for n in range(300)]
    assert design_effect(judged) == 1.0
    assert verdict(judged, 2).kind == "better"


@pytest.mark.parametrize("moved", [False, True])
def test_equal_versions_with_loud_users_are_rarely_told_apart(moved: bool) -> None:
    """Users with opinions of their own, twenty ratings each, are told apart by naive sums five times as often as they may be;
    with the raters counted, about as often as they may be: also where a part of them rated the champion before."""
    rng = np.random.default_rng(1)
    naive = counted = 0
    for _ in range(300):
        rated: list[Rated] = []
        for user in range(80):
            likes = rng.beta(2, 2)
            rated += [said(user, float(up), ours=user % 2 == 0) for up in rng.random(20) < likes]
            if moved and user % 4 == 0:
                rated.append(said(user, float(rng.random() < likes), ours=False))
        bound = horizon_bound(0.05, 400)
        plain, honest = (walk(rating_sums(rated, 1), effect=effect) for effect in (1.0, design_effect(rated)))
        assert plain is not None
        assert honest is not None
        naive += abs(plain.place) >= bound
        counted += abs(honest.place) >= bound
    assert naive > 0.25 * 300
    assert counted <= 0.08 * 300


def test_a_rating_counts_at_the_share_that_stood_when_its_answer_was_given() -> None:
    """By the request where that is known, else by the rating's own time; what was answered before the trial counts nowhere."""
    began = now()
    begun: dict[str, Any] = {
        "begin": {},
        "by": "",
        "by_itself": True,
        "recheck": False,
        "run": None,
        "revision": 1,
        "feedback": 0,
    }
    steps = (Step(share=0.05, at=began, **begun), Step(share=0.25, at=began + timedelta(hours=1), **begun))
    trial = Trial("bot", 2, 1, steps)

    def rate(number: int, minutes: float, **told: Any) -> Feedback:
        fields = {"id": f"fb-{number}", "adapter": "bot", "version": 2, "prompt": "q", "answer": "a", "rating": 1.0}
        return Feedback.model_validate(fields | {"at": began + timedelta(minutes=minutes)} | told)

    feedback = [
        rate(1, -5),
        rate(2, 5, version=1),
        rate(3, 70),
        rate(4, 70, request_id="early"),
        rate(5, 70, request_id="before"),
        rate(6, 70, version=3),
        rate(7, 70, rating=None, correction="b"),
        rate(8, 71, conversation="c"),
        rate(9, 72, conversation="c"),
        rate(10, 73, rater="ann", conversation="c"),
    ]
    answered = {"early": began + timedelta(minutes=50), "before": began - timedelta(minutes=1)}
    rated = rated_during(trial, standing(feedback), answered)
    assert [(one.step, one.ours) for one in rated] == [
        (0, False),
        (1, True),
        (0, True),
        (1, True),
        (1, True),
        (1, True),
    ]
    assert len({one.rater for one in rated}) == 5  # the two of one conversation are one
    assert [(ours.n, theirs.n) for ours, theirs in rating_sums(rated, 2)] == [(1, 1), (4, 0)]
