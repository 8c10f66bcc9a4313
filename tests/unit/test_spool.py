"""Feedback that came while Redis was away is replayed once, whatever interrupts it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from registry.errors import BadInput, InteractionUnknown, RegistryDown
from registry.records import now
from service.spool import Spool


def test_what_was_spooled_is_replayed_in_order_and_then_gone(tmp_path: Path) -> None:
    """Every body once, oldest first; a second replay has nothing to do."""
    taken: list[Any] = []
    spool = Spool(tmp_path / "feedback.jsonl", taken.append)
    spool.add([{"id": "a"}, {"id": "b"}])
    spool.add([{"id": "c"}])
    assert spool.replay() == 3
    assert [body["id"] for body in taken] == ["a", "b", "c"]
    assert spool.replay() == 0


def test_a_replay_that_redis_interrupts_loses_nothing(tmp_path: Path) -> None:
    """Redis goes away again in the middle: all of it is replayed later, together with what came meanwhile."""
    taken: list[str] = []
    down = True

    def take(body: dict[str, Any]) -> None:
        if down and body["id"] == "b":
            raise RegistryDown
        taken.append(body["id"])

    spool = Spool(tmp_path / "feedback.jsonl", take)
    spool.add([{"id": "a"}, {"id": "b"}])
    with pytest.raises(RegistryDown):
        spool.replay()
    spool.add([{"id": "c"}])
    down = False
    while spool.replay():
        pass
    assert set(taken) == {"a", "b", "c"}


def test_a_body_that_is_refused_does_not_block_the_others(tmp_path: Path) -> None:
    """What the registry refuses once it would refuse for ever; a line cut off by a crash was never acknowledged."""
    taken: list[str] = []

    def take(body: dict[str, Any]) -> None:
        if body["id"] == "bad":
            raise BadInput("no")
        taken.append(body["id"])

    spool = Spool(tmp_path / "feedback.jsonl", take)
    spool.add([{"id": "bad"}, {"id": "good"}])
    with (tmp_path / "feedback.jsonl").open("a") as file:
        file.write('{"id": "half')
    assert spool.replay() == 1
    assert taken == ["good"]


def test_feedback_waits_for_the_answer_that_it_names(tmp_path: Path) -> None:
    """The answer was given while Redis was away, too: its feedback is kept until the answer is recorded."""
    taken: list[str] = []
    recorded = False

    def take(body: dict[str, Any]) -> None:
        if not recorded:
            raise InteractionUnknown(body["request_id"])
        taken.append(body["id"])

    spool = Spool(tmp_path / "feedback.jsonl", take)
    spool.add([{"id": "a", "request_id": "req-1", "at": now().isoformat()}])
    assert spool.replay() == 0
    recorded = True
    assert spool.replay() == 1
    assert taken == ["a"]
