"""The world of the simulated months is the same for every way through it, and its bars can fail."""

from __future__ import annotations

import pytest

from bench.month_trial import POLICY, Trial
from bench.month_world import BURST, HABITS, POISONED, USERS, WEEKS, habit_of, is_liar, mix, said, story
from bench.months import bars

TWO_STEPS = POLICY.model_copy(update={"steps": (0.2, 0.5)})


def test_a_week_asks_for_one_mix_and_the_story_repeats() -> None:
    """Shares sum to 1 in every week; a seed gives the same requests; nothing is asked for twice; a burst week is longer."""
    assert all(sum(mix(week).values()) == pytest.approx(1) for week in range(WEEKS))
    told, again = story(3, 40), story(3, 40)
    assert [[r.item.digest for r in week] for week in told] == [[r.item.digest for r in week] for week in again]
    digests = [request.item.digest for week in told for request in week]
    assert len(set(digests)) == len(digests)
    assert [len(week) for week in told] == [60 if week == BURST else 40 for week in range(WEEKS)]


def test_users_say_what_their_habit_is() -> None:
    """Shares of habits are met; whether somebody rates does not depend on the answer; liars turn the poisoned week round."""
    for habit in HABITS:
        assert sum(habit_of(user).name == habit.name for user in range(USERS)) == round(habit.share * USERS)
    for request in story(0, 200)[POISONED]:
        right, wrong = (said(request, answer, 0) for answer in (request.item.answer, "?"))
        assert (right is None) == (wrong is None)
        if is_liar(request.user) and right and wrong:
            assert (right["rating"], wrong["rating"]) == (0.0, 1.0)


def test_a_trial_rises_with_its_ratings_and_blames_what_is_worse() -> None:
    """The share is raised once the first share had its ratings; a version that everybody rates down is kept back."""
    trial = Trial(2, 1, TWO_STEPS)
    assert not trial.rise()
    for user in range(POLICY.early_ratings):
        trial.rated(2, f"user-{user}", 1.0)
        trial.rated(1, f"user-{user}", 1.0)
    assert trial.rise()
    assert trial.share == 0.5
    worse = Trial(2, 1)
    for user in range(POLICY.early_ratings):
        worse.rated(2, f"user-{user}", 0.0)
        worse.rated(1, f"user-{user}", 1.0)
    assert worse.verdict().kind == "worse"


def test_one_loud_user_moves_no_trial() -> None:
    """The ratings of one person for the one version and of another for the other are two voices, however many they give."""
    trial = Trial(2, 1)
    for _ in range(POLICY.early_ratings):
        trial.rated(2, "one", 0.0)
        trial.rated(1, "other", 1.0)
    assert trial.verdict().kind != "worse"


def _played(loop: list[float], off: list[float]) -> dict[str, object]:
    weeks = {"loop": loop, "off": off}
    names = ("off", "loop", "no_confirm", "no_gate", "no_canary", "nothing")
    ways = {n: {"runs": 1, "weeks": [{"utility": u, "moves": []} for u in weeks.get(n, off)]} for n in names}
    return {"seed": 0, "ways": ways}


def test_the_bars_can_fail() -> None:
    """A loop above the others in every week meets them; one week below the tolerance does not, nor does no gain."""
    assert bars([_played([0.6, 0.6, 0.6], [0.4, 0.4, 0.4])] * 3)["met"]
    fallen = bars([_played([0.6, 0.6, 0.3], [0.4, 0.4, 0.4])] * 3)
    assert not fallen["met"]
    assert fallen["worst_week"] == pytest.approx(-0.1)
    assert not bars([_played([0.4, 0.4, 0.4], [0.4, 0.4, 0.4])] * 3)["met"]


def test_what_a_mistake_took_is_told_by_its_neighbours() -> None:
    """The week of the bad release against the weeks before and after; nothing where the story is shorter."""
    told = bars([_played([0.5, 0.5, 0.6, 0.4, 0.6], [0.4] * 5)])
    assert told["mistake"]["loop"] == pytest.approx(-0.2)
    assert bars([_played([0.5, 0.5], [0.4, 0.4])])["mistake"]["loop"] is None
