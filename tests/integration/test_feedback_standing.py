"""Replaced ratings on a real Redis: what counts depends on what was said, not on how it came in."""

from __future__ import annotations

import hashlib
import random
import uuid
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.canonical import canonical
from registry.errors import FeedbackConflict
from registry.feedback import FeedbackLog
from registry.figures import Figures
from registry.keys import Keys
from registry.records import Feedback
from registry.registry import Registry
from registry.standing import standing

AT = datetime(2026, 1, 1, tzinfo=UTC)


def said(id_: str, minute: int = 0, **fields: Any) -> Feedback:
    told = {"rater": "ann", "version": 1, "prompt": "q", "answer": "a", **fields}
    return Feedback(id=id_, adapter="bot", at=AT + timedelta(minutes=minute), **told)


def figures(registry: Registry) -> dict[int, tuple[int, float | None]]:
    return {number: (of["ratings"], of["rating_mean"]) for number, of in registry.figures.read("bot").items()}


def test_a_later_rating_counts_instead_of_the_earlier(registry: Registry) -> None:
    """Figures hold one rating a rater and answer, the log both, and the list says what was replaced by what."""
    registry.feedback.add_many([said("a", rating=1.0), said("b", 1, rating=0.0), said("c", rater="ben", rating=1.0)])

    assert figures(registry) == {1: (2, 0.5)}
    assert registry.feedback.count("bot") == 3
    assert registry.feedback.superseded("bot", ["a", "b", "c"]) == [{"rating": "b"}, {}, {}]
    assert registry.feedback.superseded_count("bot") == 1
    assert [feedback.id for feedback in registry.feedback.standing("bot")] == ["b", "c"]


def test_an_earlier_rating_that_comes_late_does_not_count(registry: Registry) -> None:
    """What waited on a replica's disk while its rater thought again is kept, and replaced as it comes in."""
    registry.feedback.add(said("late", 5, rating=0.25))
    registry.feedback.add(said("early", 1, rating=1.0))

    assert figures(registry) == {1: (1, 0.25)}
    assert registry.feedback.superseded("bot", ["early"]) == [{"rating": "late"}]


def test_a_rating_of_none_of_a_version_leaves_its_figures(registry: Registry) -> None:
    """Feedback without a version or a rating is in the log and in no figures."""
    registry.feedback.add_many([said("a", version=None, rating=1.0), said("b", correction="c")])
    assert figures(registry) == {}


def test_each_by_itself_keeps_the_good_ones(registry: Registry) -> None:
    """In one call an id that is taken by other content is told as such; those around it are kept."""
    registry.feedback.add(said("a", rating=1.0))

    first, second, third, fourth = registry.feedback.add_each(
        [said("b", rating=0.0), said("a", rating=0.0), said("a", rating=1.0), said("b", rating=0.5)]
    )

    assert first == (said("b", rating=0.0), True)
    assert isinstance(second, FeedbackConflict)
    assert third == (said("a", rating=1.0), False)
    assert isinstance(fourth, FeedbackConflict)
    assert registry.feedback.count("bot") == 2


def test_a_record_of_before_is_known_by_what_it_says(registry: Registry) -> None:
    """An id that an earlier Shoal stored, under a fingerprint of more fields, is a repeat, in a batch and by itself."""
    kept = said("old", rating=1.0)
    keys = Keys(registry.settings.namespace)
    record = kept.model_dump(mode="json", exclude={"at"})
    stored = f"{hashlib.sha256(canonical(record)).hexdigest()} {kept.model_dump_json()}"
    registry.redis.hset(keys.feedback("bot"), "old", stored)
    registry.redis.zadd(keys.feedback_order("bot"), {"old": 1})

    assert registry.feedback.add(kept) == (kept, False)
    assert registry.feedback.add_each([kept]) == [(kept, False)]
    assert registry.feedback.add_many([said("new", rating=1.0), kept])[1] == (kept, False)
    (told,) = registry.feedback.add_each([said("old", rating=0.0)])
    assert isinstance(told, FeedbackConflict)


items = st.lists(
    st.builds(
        dict,
        minute=st.integers(0, 5),
        rater=st.sampled_from(["ann", "ben", "anonymous"]),
        by=st.sampled_from(["", "k1"]),
        version=st.sampled_from([1, 2]),
        answer=st.sampled_from(["a", "b"]),
        request_id=st.sampled_from([None, None, "r1"]),
        rating=st.sampled_from([None, 0.0, 0.1, 0.3, 1.0]),
        correction=st.sampled_from([None, "c"]),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(told=items, seed=st.integers(0, 2**16))
def test_any_order_and_any_repetition_count_the_same(registry: Registry, told: list[dict[str, Any]], seed: int) -> None:
    """Posts in any order, repeated, in batches of any size, all or each: the same log, figures and standing as the rules
    of ``registry/standing.py`` say of the whole."""
    feedbacks = [said(f"f{number}", **fields) for number, fields in enumerate(told)]
    rng = random.Random(seed)
    posts = [*feedbacks, *rng.choices(feedbacks, k=rng.randrange(6))]
    rng.shuffle(posts)
    keys = Keys(f"{registry.settings.namespace}-{uuid.uuid4().hex}")
    log = FeedbackLog(registry.redis, keys)
    while posts:
        batch, posts = posts[: (size := rng.randrange(1, 6))], posts[size:]
        (log.add_many if rng.random() < 0.5 else log.add_each)(batch)

    assert {feedback.id for feedback in log.all("bot")} == {feedback.id for feedback in feedbacks}
    stands = {feedback.id: feedback for feedback in standing(feedbacks)}
    assert {feedback.id: feedback for feedback in log.standing("bot")} == stands
    ids = [feedback.id for feedback in feedbacks]
    gone = {name for name, parts in zip(ids, log.superseded("bot", ids), strict=True) if "rating" in parts}
    assert gone == {one.id for one in feedbacks if one.rating is not None} - {
        name for name, one in stands.items() if one.rating is not None
    }
    expected: dict[int, list[float]] = defaultdict(list)
    for feedback in stands.values():
        if feedback.rating is not None and feedback.version is not None:
            expected[feedback.version].append(feedback.rating)
    counted = Figures(registry.redis, keys).read("bot")
    assert {number: of["ratings"] for number, of in counted.items() if of["ratings"]} == {
        number: len(count) for number, count in expected.items()
    }
    for number, count in expected.items():
        assert counted[number]["rating_mean"] == sum(round(rating * 10) for rating in count) / 10 / len(count)
