"""Feedback as JSON lines: each says all that was said, and can be imported again."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from registry.feedback import FeedbackLog
from registry.feedback_export import export
from registry.records import Feedback
from service.feedback_body import FeedbackBody
from shoal.feedback_formats import bodies

AT = datetime(2026, 1, 1, tzinfo=UTC)


class OnePage:
    """A log of one item."""

    def __init__(self, feedback: Feedback) -> None:
        self.feedback = feedback

    def pages(self, adapter: str) -> list[list[Feedback]]:
        return [[self.feedback]]

    def superseded(self, adapter: str, ids: list[str]) -> list[dict[str, str]]:
        return [{} for _ in ids]


@pytest.mark.parametrize(
    "said",
    [
        {"prompt": "say nothing", "answer": "", "rating": 0.0},
        {"prompt": "say nothing", "answer": "x", "correction": ""},
        {"prompt": "q", "preferred": "x", "rejected": ""},
        {"prompt": "q", "preferred": "", "rejected": "y", "labels": ["t"], "sampling": {"n": 1}},
        {"prompt": "", "answer": "a", "rating": 1.0, "request_id": "t1"},
    ],
)
def test_an_exported_line_says_all_and_comes_back(said: dict[str, Any]) -> None:
    """Empty texts are said; what is None, an empty list or object, or a comment or key that nobody gave, is left out."""
    feedback = Feedback(id="f1", adapter="bot", version=1, at=AT, **said)

    row = json.loads(b"".join(export(cast("FeedbackLog", OnePage(feedback)), "bot", "jsonl")))

    named = {"id": "f1", "adapter": "bot", "version": 1, "rater": "anonymous", "at": "2026-01-01T00:00:00Z"}
    assert row == said | named
    (body,) = bodies(row, "bot")
    back = FeedbackBody.model_validate(body)
    assert back.prompt == (said["prompt"] or None)
    assert back.model_dump(include=said.keys() - {"prompt"}) == {n: v for n, v in said.items() if n != "prompt"}
