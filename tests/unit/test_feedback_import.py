"""An import against a server that answers what a test tells it to: what is bad is named, and keeps back no other line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import Response

from shoal.client import Client
from shoal.errors import ApiError
from shoal.feedback_import import BATCH, import_feedback
from tests.unit import fake_shoal
from tests.unit.fake_shoal import Asked, FakeShoal, refusal

ROUTE = "POST /api/feedback"
RECORD = {"fields": {"prompt": "q", "response": "a"}}


@pytest.fixture(scope="module")
def server() -> Iterator[FakeShoal]:
    with fake_shoal.serving() as fake:
        yield fake


@pytest.fixture
def fake(server: FakeShoal) -> FakeShoal:
    server.answers, server.asked = {}, []
    return server


@pytest.fixture
def client(fake: FakeShoal) -> Iterator[Client]:
    with Client(fake.url) as opened:
        yield opened


def line(number: int, **more: Any) -> str:
    return json.dumps({"id": f"f{number}", "prompt": "q", "answer": "a", "rating": 1, **more})


def keeping(kept: list[str], refuses: Callable[[Asked], Response | None] = lambda asked: None) -> Any:
    """The route as the service has it: what it keeps stands in ``kept``, once; ``refuses`` may refuse a batch as a whole."""

    def answer(asked: Asked) -> Any:
        if (no := refuses(asked)) is not None:
            return no
        items = asked.json["items"]
        new = [one["id"] not in kept for one in items]
        kept.extend(one["id"] for one, first in zip(items, new, strict=True) if first)
        told = [{"feedback": one, "new": first} for one, first in zip(items, new, strict=True)]
        return {"accepted": sum(new), "repeated": len(items) - sum(new), "refused": 0, "items": told}

    return answer


def larger_than(most: int) -> Callable[[Asked], Response | None]:
    return lambda asked: refusal(413, "too_large", "The body is too large.") if len(asked.body) > most else None


def test_a_batch_that_is_too_large_goes_in_halves(fake: FakeShoal, client: Client) -> None:
    """All is kept but the line that is too large alone, which is named; progress is told a batch at a time, as ever; the same
    file again changes nothing."""
    kept: list[str] = []
    fake.answers[ROUTE] = keeping(kept, larger_than(20_000))
    lines = [line(number) for number in range(1, BATCH + 11)]
    lines[41] = line(42, comment="x" * 20_000)
    heard: list[tuple[int, int]] = []

    done = import_feedback(client, "bot", lines, tell=lambda so_far: heard.append((so_far.lines, so_far.accepted)))

    assert done.refused == [(42, "The body is too large.")]
    assert (done.lines, done.accepted, len(kept)) == (BATCH + 10, BATCH + 9, BATCH + 9)
    assert kept == [f"f{number}" for number in range(1, BATCH + 11) if number != 42]
    assert heard == [(BATCH, BATCH - 1), (BATCH + 10, BATCH + 9)]
    again = import_feedback(client, "bot", lines)
    assert (again.accepted, again.repeated, again.refused) == (0, BATCH + 9, done.refused)


def test_a_line_that_the_service_cannot_read_is_named(fake: FakeShoal, client: Client) -> None:
    """Its parser takes fewer levels than Python's: the batch is refused as a whole, the line alone is to blame."""
    kept: list[str] = []
    unread = refusal(422, "bad_input", "The body is not valid JSON.")
    fake.answers[ROUTE] = keeping(kept, lambda asked: unread if b"[[[[" in asked.body else None)
    done = import_feedback(client, "bot", [line(1), line(2, sampling={"x": [[[[]]]]}), line(3)])
    assert (kept, done.refused) == (["f1", "f3"], [(2, "The body is not valid JSON.")])


def test_another_refusal_ends_the_import(fake: FakeShoal, client: Client) -> None:
    """A key that may not is no line's fault: nothing is tried in halves."""
    fake.answers[ROUTE] = refusal(403, "forbidden", "This key may not.")
    with pytest.raises(ApiError, match="may not"):
        import_feedback(client, "bot", [line(1), line(2)])
    assert len(fake.asked) == 1


@pytest.mark.parametrize(
    "bad",
    [
        {**RECORD, "responses": [{"values": ["x"], "status": "submitted"}]},
        {**RECORD, "metadata": ["x"], "responses": {"r": [{"value": 4, "user_id": "u"}]}},
        {**RECORD, "suggestions": ["x", 5]},
        {**RECORD, "suggestions": 5},
        {
            **RECORD,
            "responses": {"r": [{"value": [{"value": "prompt", "rank": 1}, {"value": "response", "rank": "2"}]}]},
        },
        {"traceId": "t1", "name": "ok", "dataType": "BOOLEAN", "value": "perhaps"},
        {"prompt": "q", "answer": "a", "rating": float("nan")},
        {"prompt": "\ud800", "answer": "a", "rating": 1},
        [],
        5,
    ],
)
def test_a_line_of_another_build_is_named_and_the_others_are_kept(fake: FakeShoal, client: Client, bad: Any) -> None:
    """Whatever JSON it is: one line with a reason."""
    kept: list[str] = []
    fake.answers[ROUTE] = keeping(kept)
    done = import_feedback(client, "bot", [line(1), json.dumps(bad), line(3)])
    assert (kept, [number for number, _ in done.refused]) == (["f1", "f3"], [2])
    assert done.refused[0][1]
