"""The recorder beside a registry that comes and goes: what is held for it, what is counted, and what is written twice."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from registry.errors import RegistryDown
from registry.policy import Policy
from registry.recording import RecordingPolicy
from registry.records import Interaction
from registry.settings import RegistrySettings
from service import recording_rules
from service.recorder import REASONS, Recorder
from service.recording_rules import RecordingRules
from service.redaction import Redaction

AT = datetime(2026, 1, 1, tzinfo=UTC)
NONE = dict.fromkeys(REASONS, 0)


class House:
    """What a recorder asks of Redis: policies, and a place for interactions that may be away or lose an answer."""

    def __init__(self, **modes: Any) -> None:
        self.away = False
        self.lost_answers = 0
        self.policies = {name: Policy(recording=RecordingPolicy(mode=mode)) for name, mode in modes.items()}
        self.writes: list[list[Interaction]] = []
        self.taken: set[str] = set()

    def read(self) -> dict[str, Policy]:
        if self.away:
            raise RegistryDown("away")
        return self.policies

    def add_many(self, interactions: Sequence[Interaction], seconds: Sequence[float]) -> list[Interaction]:
        if self.away:
            raise RegistryDown("away")
        self.writes.append(list(interactions))
        if self.lost_answers:
            self.lost_answers -= 1
            raise RegistryDown("no answer")
        return [one for one in interactions if one.request_id in self.taken]

    @property
    def recorded(self) -> list[str]:
        return [one.request_id for batch in self.writes for one in batch]


def recorder(house: House, mode: str = "all", redact: Redaction | None = None) -> Recorder:
    rules = RecordingRules(RegistrySettings(record_interactions=mode), house.read)  # type: ignore[arg-type]
    return Recorder(house, rules, redact or Redaction())  # type: ignore[arg-type]


def answered(request_id: str, adapter: str = "bot", at: datetime = AT) -> Interaction:
    return Interaction(request_id=request_id, adapter=adapter, version=1, prompt="p", answer="a", at=at)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def held(taking: Recorder) -> int:
    return taking._waiting.unfinished_tasks


def test_what_is_not_to_be_recorded_is_not_held_while_redis_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recording is off, and policies could never be read: however many answers, none waits and none is counted."""
    monkeypatch.setattr("service.recorder.WAITING", 5)
    house = House()
    house.away = True
    taking = recorder(house, "off")
    taking.start()
    until(lambda: taking._rules.failing)

    for number in range(9):
        taking.record(answered(f"r{number}"))

    assert held(taking) == 0
    taking.stop(1)
    assert taking.drops == NONE


def test_what_nobody_knew_a_rule_for_is_counted_by_the_rule_known_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers of the first moment wait for the rules; neither too many of them nor those at the end are drops, if recording is
    off."""
    monkeypatch.setattr("service.recorder.WAITING", 5)
    taking = recorder(House(), "off")
    for number in range(9):
        taking.record(answered(f"r{number}"))
    taking.stop()
    assert taking.drops == NONE


def test_the_policies_that_were_read_last_hold_while_redis_is_away() -> None:
    """The adapter that is off is neither held nor counted, the other waits, and is counted at the end."""
    house = House(quiet="off")
    taking = recorder(house)
    taking.start()
    until(lambda: taking._rules.current)
    house.away = True

    taking.record(answered("r1", "quiet"))
    taking.record(answered("r2"))

    assert held(taking) == 1
    taking.stop(1)
    assert taking.drops == NONE | {"stopped": 1}
    assert house.recorded == []


def test_a_policy_of_after_the_outage_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits to be written, and Redis is asked all the same until it is back."""
    monkeypatch.setattr(recording_rules, "EVERY_SECONDS", 0.01)
    house = House(bot="all")
    house.away = True
    taking = recorder(house, "off")
    taking.start()
    until(lambda: taking._rules.failing)
    taking.record(answered("r1"))
    house.away = False
    until(lambda: not taking._rules.failing)

    taking.record(answered("r2"))
    taking.stop()

    assert house.recorded == ["r2"]
    assert taking.drops == NONE


def test_a_policy_that_was_set_after_a_quiet_time_is_followed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule that was known last says no, and is old: the answer waits until the rules are read, and is recorded."""
    monkeypatch.setattr(recording_rules, "EVERY_SECONDS", 0.01)
    house = House(bot="off")
    taking = recorder(house)
    taking.start()
    until(lambda: taking._rules.redactors is not None)
    house.policies = {"bot": Policy(recording=RecordingPolicy(mode="all"))}
    time.sleep(0.02)

    taking.record(answered("r1"))
    taking.stop()

    assert house.recorded == ["r1"]


def test_an_answer_whose_id_is_taken_is_counted() -> None:
    """By that reason, and nothing else of its batch."""
    house = House()
    house.taken = {"r1"}
    taking = recorder(house)
    taking.record(answered("r1"))
    taking.record(answered("r2"))
    taking.start()
    taking.stop()
    assert taking.drops == NONE | {"id_taken": 1}


def test_a_write_that_is_repeated_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis wrote a batch and its answer was lost: the same text is written again, though the hook makes another each time."""
    numbers = itertools.count()
    passing = Redaction()
    monkeypatch.setattr(passing, "_always", lambda text: text if "#" in text else f"{text} #{next(numbers)}")
    house = House()
    house.lost_answers = 1
    taking = recorder(house, redact=passing)
    taking.start()
    taking.record(answered("r1"))
    taking.settle(10)
    taking.stop()
    first, second = house.writes
    assert first == second
    assert taking.drops == NONE


def test_an_answer_that_waits_beside_a_recorded_one_is_known() -> None:
    """Until it is written nobody can say whether the id names one answer; the record's own does not count."""
    taking = recorder(House())
    first, second = answered("r1"), answered("r1", at=AT + timedelta(seconds=1))
    assert not taking.waits_beside(first)
    taking.record(first)
    assert not taking.waits_beside(first)
    taking.record(second)
    assert taking.waits_beside(first)
    taking.start()
    taking.settle(10)
    until(lambda: not taking.waits_beside(first))
    taking.stop()
