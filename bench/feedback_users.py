"""Users of the starter pack who say what they think of answers: ratings, corrections, pairs, with noise, and with ill will.

They know the right answer. A user is wrong about one answer in twenty: praises a wrong one, faults a right one, prefers the
worse of two, or mistypes a correction.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from difflib import SequenceMatcher
from typing import Literal

from registry.records import Feedback, Message
from starter.skills import Item

ADAPTER = "support-bot"
RATERS = 20
NOISE = 0.05
TALK = 3
"""Answers of a conversation."""
AT = datetime(2026, 1, 1, tzinfo=UTC)
FLOODER = "flooder"

Way = Literal["rating", "correction", "pair"]
KINDS: dict[str, tuple[Way, ...]] = {
    "ratings": ("rating",),
    "corrections": ("correction",),
    "pairs": ("pair",),
    "ratings+corrections": ("rating", "correction"),
    "ratings+pairs": ("rating", "pair"),
    "all": ("rating", "correction", "pair"),
}
"""Which ways users have to say it; each time they take one of them."""


@dataclass(frozen=True)
class Asked:
    """What was asked, what the champion answered, and what another version would have."""

    item: Item
    answer: str
    other: str

    @property
    def right(self) -> bool:
        return self.item.is_right(self.answer)


def told(asked: Sequence[Asked], kind: str, seed: int, *, flipped: float = 0.0) -> list[Feedback]:
    """Feedback on these answers, one an answer; where a user has nothing to say in that way, none.

    Who only corrects says nothing of a right answer; who rates, too, rates the right ones up. ``flipped``: the share of
    feedback that says the opposite of what its user thinks, beside the noise.
    """
    rng = random.Random(f"{kind}/{seed}")
    found = []
    for number, one in enumerate(asked):
        way = rng.choice(KINDS[kind])
        lies = (rng.random() < NOISE) != (rng.random() < flipped)
        said = _said(one, way, lies, rng, only=len(KINDS[kind]) == 1)
        rater = number % RATERS
        if said:
            found.append(
                feedback(
                    one, f"fb-{number}", f"user-{rater}", number, f"talk-{rater}-{number // RATERS // TALK}", **said
                )
            )
    return found


def flood(asked: Sequence[Asked], wanted: Mapping[str, str]) -> list[Feedback]:
    """One rater who corrects every answer to what another expert says (by prompt), right or wrong."""
    return [
        feedback(
            one,
            f"flood-{number}",
            FLOODER,
            number,
            f"flood-{number}",
            answer=one.answer,
            correction=wanted[one.item.prompt],
        )
        for number, one in enumerate(asked)
    ]


def feedback(one: Asked, name: str, rater: str, minute: int, talk: str, **said: object) -> Feedback:
    at = AT + timedelta(minutes=minute)
    chat = (Message(role="user", content=one.item.prompt),)
    return Feedback(id=name, adapter=ADAPTER, version=1, messages=chat, rater=rater, conversation=talk, at=at, **said)  # type: ignore[arg-type]


def stars(item: Item, answer: str, rng: random.Random) -> float:
    """What a user gives an answer, 0 to 1 in steps of a quarter: 1 if it is right, else up to a half for being close."""
    given = 1.0 if item.is_right(answer) else 0.5 * _closeness(item, answer)
    return min(4, max(0, round(4 * (given + rng.gauss(0, 0.15))))) / 4


def _said(one: Asked, way: Way, lies: bool, rng: random.Random, *, only: bool) -> dict[str, object]:
    if way == "rating":
        return {"answer": one.answer, "rating": float(one.right != lies)}
    if way == "correction":
        if one.right and not lies:
            return {} if only else {"answer": one.answer, "rating": 1.0}
        if one.right or lies:
            return {"answer": one.answer, "correction": _mistyped(one.item.answer, rng)}
        return {"answer": one.answer, "correction": one.item.answer}
    if one.answer.strip() == one.other.strip():
        return {}
    better, worse = sorted((one.answer, one.other), key=lambda answer: -_closeness(one.item, answer))
    return {"preferred": worse, "rejected": better} if lies else {"preferred": better, "rejected": worse}


def _closeness(item: Item, answer: str) -> float:
    return 2.0 if item.is_right(answer) else SequenceMatcher(None, answer.strip(), item.answer).ratio()


def _mistyped(text: str, rng: random.Random) -> str:
    place = rng.randrange(max(1, len(text)))
    return text[:place] + rng.choice("bcdfg") + text[place + 1 :]
