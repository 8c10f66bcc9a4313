"""Feedback and interactions on a real Redis."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from registry.errors import BadInput, FeedbackConflict, InteractionUnknown
from registry.feedback import join
from registry.records import Feedback, Interaction, Message
from registry.registry import Registry

AT = datetime(2026, 1, 1, tzinfo=UTC)


def said(id_: str, adapter: str = "bot", **fields: object) -> Feedback:
    return Feedback(id=id_, adapter=adapter, at=AT, **{"prompt": "q", "answer": "a", "rating": 1.0, **fields})


def answered(id_: str, answer: str = "a") -> Interaction:
    chat = (Message(role="user", content="q"),)
    return Interaction(request_id=id_, adapter="bot", version=3, messages=chat, answer=answer, at=AT)


def test_feedback_is_stored_once(registry: Registry) -> None:
    """The same id and content is answered with the first record, whenever it comes again."""
    first = said("f1", comment="caf\u00e9")

    assert registry.feedback.add(first) == (first, True)
    assert registry.feedback.add(first.model_copy(update={"at": AT + timedelta(days=1)})) == (first, False)
    assert registry.feedback.count("bot") == 1


def test_an_id_with_other_content_is_a_conflict(registry: Registry) -> None:
    """Other content under a known id is refused, and with it everything of the same call for that adapter."""
    registry.feedback.add(said("f1"))

    with pytest.raises(FeedbackConflict):
        registry.feedback.add(said("f1", rating=0.0))
    with pytest.raises(FeedbackConflict):
        registry.feedback.add_many([said("f2"), said("f1", rating=0.0)])
    with pytest.raises(FeedbackConflict):
        registry.feedback.add_many([said("f3"), said("f3", rating=0.0)])

    assert [feedback.rating for feedback in registry.feedback.all("bot")] == [1.0]


def test_a_conflict_of_one_adapter_keeps_back_those_of_the_others(registry: Registry) -> None:
    """All or none, whichever adapter of the call comes first."""
    registry.feedback.add(said("taken", "other"))
    conflict = said("taken", "other", rating=0.0)

    for batch in ([said("f1"), conflict], [conflict, said("f1")]):
        with pytest.raises(FeedbackConflict):
            registry.feedback.add_many(batch)

    assert (registry.feedback.count("bot"), registry.feedback.count("other")) == (0, 1)


def test_many_at_once_keep_their_order(registry: Registry) -> None:
    """A batch is stored in its order, across adapters, and an id that comes twice is new once."""
    batch = [said("b", "other"), *(said(f"f{index}") for index in range(5)), said("f0")]

    answers = registry.feedback.add_many(batch)

    assert [new for _, new in answers] == [True] * 6 + [False]
    assert [feedback.id for feedback in registry.feedback.all("bot")] == [f"f{index}" for index in range(5)]
    assert registry.feedback.count("other") == 1
    assert registry.feedback.add_many([]) == []


def test_lists_are_newest_first_and_paged(registry: Registry) -> None:
    """Pages fit together; a cursor that names nothing is refused; an adapter without feedback has none."""
    registry.feedback.add_many([said(f"f{index}") for index in range(7)])

    first = registry.feedback.list("bot", 3)
    second = registry.feedback.list("bot", 10, before=first[-1].id)

    assert [feedback.id for feedback in first + second] == [f"f{index}" for index in range(6, -1, -1)]
    with pytest.raises(BadInput):
        registry.feedback.list("bot", 3, before="no")
    assert registry.feedback.list("quiet") == registry.feedback.all("quiet") == []


def test_everything_is_read_in_pages(registry: Registry) -> None:
    """More feedback than one page comes back whole and in order."""
    batch = [said(f"f{index}") for index in range(2500)]
    registry.feedback.add_many(batch)
    assert registry.feedback.all("bot") == batch


def test_fifty_deliveries_are_one_feedback(registry: Registry) -> None:
    """The same feedback from fifty threads is new once."""
    answers: list[bool] = []
    threads = [threading.Thread(target=lambda: answers.append(registry.feedback.add(said("f1"))[1])) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [False] * 49 + [True]


def test_an_interaction_is_found_by_its_request(registry: Registry) -> None:
    """What was recorded is found by request id; the rest is said to be unknown."""
    assert registry.interactions.add_many([]) == []
    assert registry.interactions.add_many([answered("r1"), answered("r2")]) == []

    assert registry.interactions.get("r1") == answered("r1")
    with pytest.raises(InteractionUnknown):
        registry.interactions.get("r3")


def test_an_interaction_ends(registry: Registry) -> None:
    """A recorded prompt is kept for the days that the settings say, no longer."""
    registry.interactions.add_many([answered("r1")])
    (key,) = registry.redis.keys(f"{registry.settings.namespace}:interaction:*")
    assert 29 * 86400 < registry.redis.ttl(key) <= 30 * 86400

    registry.redis.pexpire(key, 1)
    time.sleep(0.01)

    with pytest.raises(InteractionUnknown):
        registry.interactions.get("r1")


def test_feedback_by_request_is_about_what_was_answered(registry: Registry) -> None:
    """Prompt, answer, adapter and version come from the record, whatever the caller claims."""
    feedback = join({"id": "f1", "at": AT, "rating": 0.0, "version": 9, "answer": "mine"}, answered("r1"))

    assert (feedback.request_id, feedback.adapter, feedback.version) == ("r1", "bot", 3)
    assert (feedback.answer, feedback.rating) == ("a", 0.0)
    assert registry.feedback.add(feedback) == (feedback, True)
