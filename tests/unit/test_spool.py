"""Feedback that came while Redis was away is replayed once, whatever interrupts it."""

from __future__ import annotations

import resource
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry.errors import BadInput, FeedbackNotKept, InteractionUnknown, RecordNewer, RegistryDown
from registry.records import now
from service.spool import Spool


def one_by_one(take: Callable[[dict[str, Any]], None]) -> Callable[[list[dict[str, Any]]], None]:
    """A registry that takes some of a batch before it refuses: worse than the real one."""

    def take_all(bodies: list[dict[str, Any]]) -> None:
        for body in bodies:
            take(body)

    return take_all


def test_what_was_spooled_is_replayed_in_order_and_then_gone(tmp_path: Path) -> None:
    """Every body once, oldest first; a second replay has nothing to do."""
    taken: list[Any] = []
    spool = Spool(tmp_path / "feedback.jsonl", taken.extend)
    spool.add([{"id": "a"}, {"id": "b"}])
    spool.add([{"id": "c"}])
    assert spool.replay() == 3
    assert [body["id"] for body in taken] == ["a", "b", "c"]
    assert spool.replay() == 0


def test_a_replay_that_redis_interrupts_loses_nothing(tmp_path: Path) -> None:
    """Redis goes away again in the middle: all of it is replayed later, together with what came meanwhile."""
    taken: list[str] = []
    down = True

    def take_one(body: dict[str, Any]) -> None:
        if down and body["id"] == "b":
            raise RegistryDown
        taken.append(body["id"])

    spool = Spool(tmp_path / "feedback.jsonl", one_by_one(take_one))
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

    def take_one(body: dict[str, Any]) -> None:
        if body["id"] == "bad":
            raise BadInput("no")
        taken.append(body["id"])

    spool = Spool(tmp_path / "feedback.jsonl", one_by_one(take_one))
    spool.add([{"id": "bad"}, {"id": "good"}])
    with (tmp_path / "feedback.jsonl").open("a") as file:
        file.write('{"id": "half')
    assert spool.replay() == 1
    assert set(taken) == {"good"}
    assert spool.waiting == 0


def test_a_line_cut_off_by_a_crash_does_not_swallow_the_next(tmp_path: Path) -> None:
    """The next process appends behind half a line: what it acknowledges is a line of its own."""
    taken: list[Any] = []
    (tmp_path / "feedback.jsonl").write_text('{"id": "whole"}\n{"id": "hal')
    spool = Spool(tmp_path / "feedback.jsonl", taken.extend)
    spool.add([{"id": "next"}])
    assert spool.replay() == 2
    assert [body["id"] for body in taken] == ["whole", "next"]


def test_a_full_disk_keeps_nothing_and_says_so(tmp_path: Path) -> None:
    """The disk takes half of a batch: none of it is kept, so that its sender may send it again under any id."""
    taken: list[Any] = []
    spool = Spool(tmp_path / "feedback.jsonl", taken.extend)
    spool.add([{"id": "before"}])
    held = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, held[1]))  # a real write that stops half-way
        with pytest.raises(FeedbackNotKept):
            spool.add([{"id": str(number), "comment": "x" * 100} for number in range(100)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, held)
        signal.signal(signal.SIGXFSZ, ignored)
    assert spool.waiting == 1
    assert spool.replay() == 1
    assert [body["id"] for body in taken] == ["before"]


def test_a_line_of_a_newer_shoal_stays_on_disk(tmp_path: Path) -> None:
    """Only an upgraded process may replay it; nothing is dropped meanwhile."""
    (tmp_path / "feedback.jsonl").write_text('{"id": "a", "schema_number": 99}\n')
    spool = Spool(tmp_path / "feedback.jsonl", lambda bodies: None)
    with pytest.raises(RecordNewer, match="upgrade"):
        spool.replay()
    assert spool.waiting == 1


def test_two_processes_share_a_journal_and_lose_nothing(tmp_path: Path) -> None:
    """Adds and replays of two services on one file at once: every body arrives, however often."""
    taken: list[Any] = []
    spools = [Spool(tmp_path / "feedback.jsonl", taken.extend) for _ in range(2)]

    def add(place: int) -> None:
        for number in range(20):
            spools[place].add([{"id": f"{place}-{number}"}])

    def replay(place: int) -> None:
        for _ in range(20):
            spools[place].replay()

    threads = [threading.Thread(target=work, args=[place]) for work in (add, replay) for place in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spools[0].replay()
    assert {body["id"] for body in taken} == {f"{place}-{number}" for place in (0, 1) for number in range(20)}


def test_what_waits_can_be_asked(tmp_path: Path) -> None:
    """How many items, and how many bytes."""
    spool = Spool(tmp_path / "feedback.jsonl", lambda bodies: None)
    spool.add([{"id": "a"}, {"id": "b"}])
    assert (spool.waiting, spool.size) == (2, (tmp_path / "feedback.jsonl").stat().st_size)
    spool.replay()
    assert (spool.waiting, spool.size) == (0, 0)


def test_feedback_waits_for_the_answer_that_it_names(tmp_path: Path) -> None:
    """The answer was given while Redis was away, too: its feedback is kept until the answer is recorded."""
    taken: list[str] = []
    recorded = False

    def take_one(body: dict[str, Any]) -> None:
        if not recorded:
            raise InteractionUnknown(body["request_id"])
        taken.append(body["id"])

    spool = Spool(tmp_path / "feedback.jsonl", one_by_one(take_one))
    spool.add([{"id": "a", "request_id": "req-1", "at": now().isoformat()}])
    assert spool.replay() == 0
    recorded = True
    assert spool.replay() == 1
    assert taken == ["a"]
