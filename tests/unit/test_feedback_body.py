"""What a caller may say of an answer, and what becomes of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from registry.errors import Forbidden
from registry.records import now
from service.auth import Caller
from service.feedback_body import FeedbackBody

ANN = Caller("ann", "key-1", frozenset({"feedback"}))
INLINE = {"adapter": "bot", "prompt": "q", "answer": "a"}


def fields(who: Caller = ANN, **said: Any) -> dict[str, Any]:
    return FeedbackBody.model_validate({**INLINE, **said}).fields(who)


@pytest.mark.parametrize(
    ("said", "rating", "kept"),
    [
        ({"rating": 0.3}, 0.3, {}),
        ({"rating": 1}, 1.0, {}),
        ({"rating": "up"}, 1.0, {"thumbs": "up"}),
        ({"rating": False}, 0.0, {"thumbs": "down"}),
        ({"thumbs": "down"}, 0.0, {"thumbs": "down"}),
        ({"stars": 1}, 0.0, {"stars": 1}),
        ({"stars": 4}, 0.75, {"stars": 4}),
    ],
)
def test_every_scale_becomes_one_rating(said: dict[str, Any], rating: float, kept: dict[str, Any]) -> None:
    """Thumbs, a boolean score, stars and 0 to 1; what was sent is kept beside it."""
    told = fields(**said)
    assert told["rating"] == rating
    assert {name: told[name] for name in ("thumbs", "stars") if name in told} == kept


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ({}, "give a 'rating'"),
        ({"rating": 1, "stars": 5}, "not rating and stars"),
        ({"rating": 1.5}, "less than or equal to 1"),
        ({"stars": 0}, "greater than or equal to 1"),
        ({"stars": 6}, "less than or equal to 5"),
        ({"thumbs": "sideways"}, "'up' or 'down'"),
        ({"preferred": "x"}, "come together"),
        ({"rating": 1, "answer": None}, "needs the 'answer'"),
        ({"rating": 1, "adapter": None}, "'request_id'"),
        ({"rating": 1, "messages": [{"role": "user", "content": "q"}]}, "either 'prompt' or 'messages'"),
        ({"rating": 1, "labels": [""]}, "at least 1 character"),
        ({"rating": 1, "labels": ["x" * 65]}, "at most 64"),
        ({"rating": 1, "at": "2026-01-01T00:00:00"}, "timezone"),
        ({"rating": 1, "at": (now() + timedelta(hours=1)).isoformat()}, "in the future"),
        ({"rating": 1, "colour": "red"}, "Extra inputs"),
        ({"rating": 1, "sampling": {"stop": "x" * 10_000}}, "more than 10000 bytes"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_reason(said: dict[str, Any], word: str) -> None:
    """One scale, whole pairs, known fields, an answer to rate, a time with a zone that has come."""
    with pytest.raises(ValidationError, match=word):
        fields(**said)


def test_words_alone_are_feedback() -> None:
    """A comment or labels without a rating say something, too."""
    assert fields(comment="too long")["comment"] == "too long"
    assert fields(labels=["tone", "length"])["labels"] == ["tone", "length"]


def test_who_and_when_are_always_known() -> None:
    """Without a rater it is anonymous, without an id and a time they are made; the key that brought it is written down."""
    told = fields(rating=1)
    assert (told["rater"], told["by"]) == ("anonymous", "key-1")
    assert told["id"].startswith("fb-")
    assert datetime.fromisoformat(told["at"]) <= now()
    assert fields(rating=1, at="2026-01-01T12:00:00+02:00")["at"] == datetime(2026, 1, 1, 10, tzinfo=UTC).isoformat()


def test_a_key_with_raters_speaks_for_them_alone() -> None:
    """The only one where none is named, one of several where it is; never another."""
    one = Caller("app", "key-2", frozenset({"feedback"}), raters=("ann",))
    two = Caller("app", "key-3", frozenset({"feedback"}), raters=("ann", "ben"))
    assert fields(one, rating=1)["rater"] == "ann"
    assert fields(two, rating=1, rater="ben")["rater"] == "ben"
    for who, rater in ((one, "ben"), (two, None), (two, "anonymous")):
        with pytest.raises(Forbidden, match="its own raters"):
            fields(who, rating=1, rater=rater)
