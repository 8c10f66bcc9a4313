"""The world of the simulated months: who asks what in which week, who rates how, and what goes wrong.

Thirteen weeks. Users ask for the starter pack's skills; what they ask for drifts to other skills in the middle of the story. The
truth of an answer is whether it is exactly right; raters see it through their habits. Everything follows from the seed, and
every way of running the service meets the same requests and the same raters.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starter import skills

WEEKS = 13
BURST, POISONED, MISTAKE = 5, 7, 3
"""Weeks in which one skill is asked for in a burst, raters lie, and somebody registers a bad expert and, by mistake, releases it,
as whatever is released there: on trial, or to everybody. (With no loop nobody releases anything.)"""
FIRST = {"reverse": 0.25, "shift": 0.25, "swap": 0.25, "vowels": 0.25}
LAST = {"shift": 0.2, "vowels": 0.2, "dedup": 0.3, "mask": 0.3}
DRIFT = (5, 9)
"""Until the first of these weeks users ask for ``FIRST``, from the second on for ``LAST``, between them for a mix."""
LIAR = "liar"
FLOOD = "flood"


@dataclass(frozen=True)
class Habit:
    """How a kind of user rates. ``share`` of users; ``rates``: how often; ``wrong``: how often the thumb is the wrong one;
    ``corrects``: how often a wrong answer gets the right one written down; ``stars``: rates from 1 to 5 instead of by thumb."""

    name: str
    share: float
    rates: float
    wrong: float = 0.0
    corrects: float = 0.0
    stars: bool = False


HABITS = (
    Habit("careful", share=0.3, rates=0.9, wrong=0.02, corrects=0.7),
    Habit("quick", share=0.4, rates=0.6, wrong=0.15),
    Habit("stars", share=0.2, rates=0.7, wrong=0.1, stars=True),
    Habit("silent", share=0.1, rates=0.0),
)
USERS = 120
LIARS = 0.3
"""Share of the users who rate the other way round in the poisoned week."""
FLOODED = 300
"""False corrections that one rater sends in the poisoned week."""


@dataclass(frozen=True)
class Request:
    """One question of one user in one week. ``number`` counts them through the whole story."""

    number: int
    week: int
    user: int
    item: skills.Item

    @property
    def messages(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.item.prompt}]


def mix(week: int) -> dict[str, float]:
    """What share of a week's requests asks for each skill."""
    begin, end = DRIFT
    late = min(1.0, max(0.0, (week - begin + 1) / (end - begin)))
    drifted = {skill: (1 - late) * FIRST.get(skill, 0.0) + late * LAST.get(skill, 0.0) for skill in skills.SKILLS}
    if week == BURST:
        drifted = {skill: share / 2 + (0.5 if skill == "shift" else 0.0) for skill, share in drifted.items()}
    return {skill: share for skill, share in drifted.items() if share > 0}


def story(seed: int, per_week: int, weeks: int = WEEKS) -> list[list[Request]]:
    """Every week's requests. A burst week has half as many again. No item is asked for twice."""
    rng = random.Random(f"months/{seed}")
    sizes = [per_week * 3 // 2 if week == BURST else per_week for week in range(weeks)]
    asked = [rng.choices(*_split(mix(week)), k=size) for week, size in enumerate(sizes)]
    pools = {
        skill: skills.items(skill, "traffic", count, seed)
        for skill in skills.SKILLS
        if (count := sum(week.count(skill) for week in asked))
    }
    told, number = [], 0
    for week, wanted in enumerate(asked):
        requests = []
        for skill in wanted:
            requests.append(Request(number, week, rng.randrange(USERS), pools[skill].pop()))
            number += 1
        told.append(requests)
    return told


def said(request: Request, answer: str, seed: int) -> dict[str, Any] | None:
    """What the user says of ``answer``: fields of a feedback; None where nothing. The draws do not depend on the answer."""
    habit = habit_of(request.user)
    rng = random.Random(f"months/{seed}/says/{request.number}")
    rates, slips, corrects = rng.random() < habit.rates, rng.random() < habit.wrong, rng.random() < habit.corrects
    shade = rng.random()
    if not rates:
        return None
    right = request.item.is_right(answer)
    pleased = right != slips
    rater = f"{habit.name}-{request.user}"
    if request.week == POISONED and is_liar(request.user):
        return {"rater": rater, "rating": 0.0 if right else 1.0}
    if corrects and not right:
        return {"rater": rater, "rating": 0.0, "correction": request.item.answer}
    if habit.stars:
        stars = (5 if shade < 0.7 else 4) if pleased else (1 if shade < 0.5 else 2 if shade < 0.8 else 3)
        return {"rater": rater, "rating": (stars - 1) / 4}
    return {"rater": rater, "rating": 1.0 if pleased else 0.0}


def flood(requests: Sequence[Request], seed: int) -> list[tuple[Request, dict[str, Any]]]:
    """What one rater alone sends in the poisoned week: a false correction for each of many prompts."""
    rng = random.Random(f"months/{seed}/flood")
    chosen = rng.sample(list(requests), min(FLOODED, len(requests)))
    return [(request, {"rater": FLOOD, "correction": request.item.prompt.split(": ", 1)[1]}) for request in chosen]


def habit_of(user: int) -> Habit:
    """Users are dealt out to the kinds in order, so that every share is met exactly."""
    place, until = (user * 37 % USERS + 0.5) / USERS, 0.0
    for habit in HABITS:
        until += habit.share
        if place < until:
            return habit
    return HABITS[-1]


def is_liar(user: int) -> bool:
    return (user * 53 % USERS + 0.5) / USERS < LIARS


def _split(shares: dict[str, float]) -> tuple[list[str], list[float]]:
    return list(shares), list(shares.values())
