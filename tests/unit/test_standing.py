"""Which word of a rater stands: the later one, by part, on the same answer."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any

import pytest

from registry.feedback import fingerprint, join
from registry.ratings import nano, rating_of_stars
from registry.records import Feedback, Interaction, Message
from registry.standing import rank, slots, standing

AT = datetime(2026, 1, 1, tzinfo=UTC)


def said(id_: str, minute: int = 0, **fields: Any) -> Feedback:
    told = {"rater": "ann", "version": 1, "prompt": "q", "answer": "a", **fields}
    return Feedback(id=id_, adapter="bot", at=AT + timedelta(minutes=minute), **told)


def ratings(feedbacks: list[Feedback]) -> dict[str, float | None]:
    return {feedback.id: feedback.rating for feedback in standing(feedbacks)}


def test_the_later_rating_stands_in_whatever_order_they_come() -> None:
    """Three ratings of one answer by one rater: the one with the latest time stands, in every order of arrival."""
    told = [said("a", 0, rating=1.0), said("b", 2, rating=0.25), said("c", 1, rating=0.0)]
    for order in permutations(told):
        assert ratings(list(order)) == {"b": 0.25}


@pytest.mark.parametrize(
    "other",
    [
        {"rater": "ben"},
        {"by": "another-key"},
        {"version": 2},
        {"prompt": "another"},
        {"answer": "another"},
        {"request_id": "r1"},
    ],
)
def test_a_rating_of_something_else_replaces_nothing(other: dict[str, Any]) -> None:
    """Another rater, another key under the same name, another answer: both stand."""
    assert ratings([said("a", rating=1.0), said("b", 1, rating=0.0, **other)]) == {"a": 1.0, "b": 0.0}


def test_a_part_is_replaced_by_its_like_only() -> None:
    """A correction leaves the thumb that came before it; a later rating takes the rating out of what said both."""
    both = said("a", rating=0.0, thumbs="down", correction="c")
    later = said("b", 1, rating=1.0)

    first, second = standing([both, later])

    assert (first.rating, first.thumbs, first.correction) == (None, None, "c")
    assert second == later
    assert standing([said("a", rating=0.0), said("b", 1, correction="c")]) == [
        said("a", rating=0.0),
        said("b", 1, correction="c"),
    ]


def test_a_pair_that_is_turned_round_is_the_same_pair() -> None:
    """A rater who changes their mind about two answers has said one thing; about a third answer, another."""
    told = [
        said("a", preferred="x", rejected="y"),
        said("b", 1, preferred="y", rejected="x"),
        said("c", 2, preferred="y", rejected="z"),
    ]
    assert [feedback.id for feedback in standing(told)] == ["b", "c"]


def test_anonymous_raters_are_not_taken_for_one() -> None:
    """Two without a name on the same prompt and answer both count; on one request they are the user who made it."""
    inline = [said("a", rater="anonymous", rating=1.0), said("b", 1, rater="anonymous", rating=0.0)]
    assert len(standing(inline)) == 2
    assert not slots(inline[0])
    asked = [feedback.model_copy(update={"request_id": "r1"}) for feedback in inline]
    assert ratings(asked) == {"b": 0.0}


def test_words_alone_replace_nothing() -> None:
    """Comments and labels add up: neither replaces what came before, nor is replaced."""
    told = [said("a", rating=1.0), said("b", 1, comment="hm"), said("c", 2, labels=("tone",))]
    assert standing(told) == told


def test_a_rank_is_a_moment_and_never_a_tie() -> None:
    """Ranks compare as the times do; two of one moment differ."""
    assert rank(said("a")) < rank(said("a", 1))
    assert rank(said("a")) != rank(said("b"))
    assert {len(rank(said("a", minute))) for minute in (0, 10**6)} == {32}


def test_stars_and_thumbs_lie_on_one_scale() -> None:
    """One star is 0, three .5, five 1; sums are whole numbers."""
    assert [rating_of_stars(stars) for stars in (1, 2, 3, 4, 5)] == [0, 0.25, 0.5, 0.75, 1]
    assert sum(nano(0.1) for _ in range(10)) == nano(1.0)


def test_a_record_that_gains_fields_keeps_its_fingerprint() -> None:
    """Defaults, the schema's number, the time and the key are not content: a retry after an upgrade is a retry."""
    plain = said("a", rating=1.0)
    assert fingerprint(plain) == "0b23fc6e84d22b054453641edd094288c357cd57a471461500227b80cd8ad6c8"
    assert fingerprint(said("a", 5, rating=1.0, by="k", labels=(), sampling={}, comment="")) == fingerprint(plain)
    assert fingerprint(said("a", rating=1.0, labels=("x",))) != fingerprint(plain)


def test_feedback_by_request_knows_how_it_was_sampled_and_where() -> None:
    """Sampling parameters and conversation come from the interaction; a conversation that the rater names goes first."""
    asked = Interaction(
        request_id="r1",
        adapter="bot",
        version=3,
        messages=(Message(role="user", content="q"),),
        answer="a",
        sampling={"temperature": 0.5},
        conversation="c1",
        at=AT,
    )
    told = join({"id": "f", "at": AT, "rating": 1.0, "sampling": {"temperature": 2.0}}, asked)
    assert (told.sampling, told.conversation) == ({"temperature": 0.5}, "c1")
    assert join({"id": "f", "at": AT, "rating": 1.0, "conversation": "mine"}, asked).conversation == "mine"
