"""Feedback in the words of others: every line that docs/feedback.md shows, and those that must not be guessed at."""

from __future__ import annotations

from typing import Any

import pytest

from service.auth import Caller
from service.feedback_body import FeedbackBody
from shoal.feedback_formats import NotFeedback, bodies, score_name

IDS = Caller("ops", "admin", frozenset({"admin"}))
SCORE = {"id": "s1", "traceId": "t1", "name": "helpful", "value": 0.75, "dataType": "NUMERIC", "comment": "ok"}
FIELDS = {"prompt": "2+2", "response": "5"}


def body(line: dict[str, Any], **how: Any) -> dict[str, Any]:
    """The one body of a line, which the service takes as it is."""
    (told,) = bodies(line, "bot", **how)
    FeedbackBody.model_validate(told).fields(IDS)
    return told


def test_our_own_export_comes_back() -> None:
    """What an export says beside what the rater said is left out; a rating follows from the stars that were sent."""
    line = {
        "id": "f1", "adapter": "bot", "version": 2, "prompt": "q", "answer": "a", "rating": 0.75, "stars": 4, "rater": "ann",
        "by": "key-1", "at": "2026-01-01T00:00:00Z", "superseded_by": {"rating": "f2"},
    }  # fmt: skip
    told = body(line)
    assert told == {
        name: line[name] for name in ("id", "adapter", "version", "prompt", "answer", "stars", "rater", "at")
    }


def test_an_empty_text_of_an_export_comes_back_but_for_an_empty_prompt() -> None:
    """No answer, and none as the right one, are said; a prompt that was recorded empty comes from the record, by request id."""
    line = {"id": "f1", "request_id": "t1", "prompt": "", "answer": "", "correction": "", "rating": 0.0}
    told = body(line)
    assert (told["answer"], told["correction"], "prompt" in told) == ("", "", False)


def test_common_names_are_taken_for_ours() -> None:
    """The words of preference data sets and logs; ours go before them."""
    pair = body({"input": [{"role": "user", "content": "q"}], "chosen": "x", "rejected": "y", "tags": ["t"]})
    assert (pair["messages"][0]["content"], pair["preferred"], pair["rejected"], pair["labels"]) == (
        "q",
        "x",
        "y",
        ["t"],
    )
    assert body({"instruction": "q", "output": "a", "score": 0.5, "user_id": "u"})["rating"] == 0.5
    assert body({"prompt": "q", "output": "a", "score": 1}, stars=True)["stars"] == 1


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, {"rating": 0.75, "labels": ["helpful"], "comment": "ok", "request_id": "t1", "id": "s1"}),
        ({"dataType": "BOOLEAN", "value": 1}, {"thumbs": "up"}),
        ({"dataType": "BOOLEAN", "value": 0}, {"thumbs": "down"}),
        ({"dataType": "BOOLEAN", "value": "false"}, {"thumbs": "down"}),
        ({"dataType": "BOOLEAN", "value": "1"}, {"thumbs": "up"}),
        ({"dataType": "BOOLEAN", "value": 0.0, "stringValue": "False"}, {"thumbs": "down"}),
        ({"dataType": "BOOLEAN", "value": None, "stringValue": "True"}, {"thumbs": "up"}),
        ({"value": False, "dataType": ""}, {"thumbs": "down"}),
        ({"dataType": "CATEGORICAL", "value": "thumbs-down"}, {"thumbs": "down"}),
        ({"dataType": "CATEGORICAL", "value": 0, "stringValue": "tone"}, {"labels": ["helpful=tone"]}),
        ({"dataType": "CORRECTION", "value": None, "stringValue": "4"}, {"correction": "4"}),
        ({"authorUserId": "ann", "sessionId": "c1"}, {"rater": "ann", "conversation": "c1"}),
        ({"input": "q", "output": {"role": "assistant", "content": "a"}}, {"prompt": "q", "answer": "a"}),
        (
            {"trace": {"input": {"messages": [{"role": "user", "content": "q"}]}, "output": "a", "userId": "u"}},
            {"rater": "u"},
        ),
        ({"timestamp": "2026-01-01T00:00:00Z", "id": "a b/c"}, {"at": "2026-01-01T00:00:00Z", "id": "a-b-c"}),
    ],
)
def test_a_langfuse_score_is_feedback_on_the_request_of_its_trace(more: dict[str, Any], said: dict[str, Any]) -> None:
    """By kind of value; comment, author, session and time with it; what was asked and answered, where the trace is there."""
    told = body(SCORE | more)
    assert said.items() <= told.items()
    assert score_name(SCORE | more) == "helpful"


def test_a_number_alone_is_not_guessed_to_be_stars() -> None:
    """A 1 is the best rating or the worst of five stars: whoever imports says which."""
    assert body(SCORE | {"value": 1})["rating"] == 1
    assert body(SCORE | {"value": 1}, stars=True)["stars"] == 1
    with pytest.raises(NotFeedback, match="--stars"):
        bodies(SCORE | {"value": 4}, "bot")


@pytest.mark.parametrize(
    ("responses", "said"),
    [
        ({"quality": [{"value": 4, "user_id": "ann"}]}, {"stars": 4}),
        ({"quality": [{"value": 1, "user_id": "ann"}]}, {"stars": 1}),
        ({"label": [{"value": "negative", "user_id": "ann"}]}, {"thumbs": "down"}),
        ({"corrected_response": [{"value": "4", "user_id": "ann"}]}, {"correction": "4"}),
        ({"comment": [{"value": "wrong", "user_id": "ann"}]}, {"comment": "wrong"}),
        ({"topics": [{"value": ["maths", "easy"], "user_id": "ann"}]}, {"labels": ["maths", "easy"]}),
        ({"topic": [{"value": "maths", "user_id": "ann"}]}, {"labels": ["topic=maths"]}),
        ([{"user_id": "ann", "status": "submitted", "values": {"quality": {"value": 5}}}], {"stars": 5}),
    ],
)
def test_an_argilla_record_is_what_each_person_responded(responses: Any, said: dict[str, Any]) -> None:
    """Ratings as stars, labels, corrections and comments by the kind and the name of their question, of Argilla 2 and 1."""
    record = {"id": "rec/1", "fields": FIELDS, "metadata": {"version": 3, "colour": "red"}, "responses": responses}
    told = body(record)
    assert said.items() <= told.items()
    assert (told["prompt"], told["answer"], told["rater"], told["version"]) == ("2+2", "5", "ann", 3)
    assert told["id"] == "rec-1:ann"


def test_a_record_of_several_people_is_several_bodies() -> None:
    """One each, with all that they said; drafts are not said yet; suggestions count where nobody responded."""
    responses = {
        "quality": [{"value": 5, "user_id": "ann"}, {"value": 2, "user_id": "ben", "status": "submitted"}],
        "comment": [{"value": "hm", "user_id": "ben"}, {"value": "?", "user_id": "cal", "status": "draft"}],
    }
    suggested = {"quality": {"value": 3, "agent": "judge"}}
    told = bodies({"fields": FIELDS, "responses": responses, "suggestions": suggested}, "bot")
    assert [(one["rater"], one["stars"], one.get("comment")) for one in told] == [("ann", 5, None), ("ben", 2, "hm")]
    alone = {"fields": FIELDS, "responses": {}, "suggestions": suggested}
    assert [(one["rater"], one["stars"]) for one in bodies(alone, "bot")] == [("judge", 3)]


def test_argilla_preferences_become_pairs() -> None:
    """A choice between two fields, and a ranking of them."""
    fields = {"prompt": "q", "response_a": "x", "response_b": "y"}
    chosen = {"preference": [{"value": "response_b", "user_id": "ann"}]}
    ranked = {
        "order": [{"value": [{"value": "response_a", "rank": 2}, {"value": "response_b", "rank": 1}], "user_id": "ann"}]
    }
    for responses in (chosen, ranked):
        told = body({"fields": fields, "responses": responses})
        assert (told["preferred"], told["rejected"]) == ("y", "x")


@pytest.mark.parametrize(
    "line",
    [
        [],
        "text",
        {"adapter": "other", "prompt": "q"},
        {"traceId": "t1", "value": {"x": 1}},
        SCORE | {"dataType": "BOOLEAN", "value": "perhaps"},
        SCORE | {"dataType": "BOOLEAN", "value": 0.5},
        SCORE | {"dataType": "BOOLEAN", "value": None},
        {"fields": "text", "responses": {}},
        {"fields": FIELDS},
        {"fields": FIELDS, "responses": {"q": [{"value": {"x": 1}, "user_id": "ann"}]}},
        {"fields": FIELDS, "responses": {"q": [{"value": [{"value": "a", "rank": 1}, {"value": "b", "rank": 2}]}]}},
    ],
)
def test_what_is_no_feedback_says_why(line: Any) -> None:
    """No object, another adapter's, a value or an answer that says nothing known."""
    with pytest.raises(NotFeedback, match=r"\w"):
        bodies(line, "bot")


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"responses": [{"values": ["x"], "status": "submitted"}]}, "the 'values' of a response are no object"),
        ({"metadata": ["x"], "responses": {"q": [{"value": 4}]}}, "its 'metadata' are no object"),
        ({"suggestions": ["x", 5]}, "a suggestion is no object"),
        ({"suggestions": 5}, "it does not look like a record of Argilla"),
        (
            {"responses": {"q": [{"value": [{"value": "prompt", "rank": 1}, {"value": "response", "rank": "2"}]}]}},
            "the ranks of its ranking are no numbers",
        ),
    ],
)
def test_a_record_of_another_build_says_where(more: dict[str, Any], told: str) -> None:
    """A list where an object has to be, ranks that cannot be compared: no Python error leaves the reader."""
    with pytest.raises(NotFeedback, match=told):
        bodies({"fields": FIELDS, **more}, "bot")


def test_the_same_words_have_the_same_id() -> None:
    """A line without an id is named by its content: sent again it counts once."""
    line = {"prompt": "q", "answer": "a", "rating": 1}
    assert bodies(line, "bot")[0]["id"] == bodies(dict(reversed(line.items())), "bot")[0]["id"]
    assert bodies(line, "bot")[0]["id"] != bodies(line | {"rating": 0}, "bot")[0]["id"]
