"""Runs that start by themselves: every so often, with enough new feedback, once."""

from __future__ import annotations

import multiprocessing
from datetime import UTC, datetime
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from registry.adaptation import begin
from registry.errors import Conflict, RunGoing
from registry.policy import Policy
from registry.records import Adapter, Feedback, Run, RunOptions, RunSpec, now
from registry.registry import Registry
from registry.settings import RegistrySettings
from swarm_worker import live_ratings
from swarm_worker import policy as schedule
from swarm_worker.looks import looks_before
from swarm_worker.policy import SCHEDULE, Memory, start_due_runs
from swarm_worker.settings import WorkerSettings
from tests.peft_folders import write_adapter

BOT = "bot"


def an_adapter(registry: Registry, tmp_path: Path) -> None:
    for number in range(2):
        folder = tmp_path / f"expert-{number}"
        write_adapter(folder, seed=number)
        registry.register(BOT, folder, by="test")
    registry.promote(BOT, 1, by="test")


def give(registry: Registry, n: int, first: int = 0) -> None:
    told = [
        Feedback(id=f"f{i}", adapter=BOT, prompt=f"prompt {i}", answer="x", rating=float(i % 2), at=now())
        for i in range(first, first + n)
    ]
    registry.feedback.add_many(told)


def test_a_run_starts_when_it_is_time_and_there_is_enough_new_feedback(registry: Registry, tmp_path: Path) -> None:
    """Not before there is enough; then one, however often the tick comes; then not again without new feedback."""
    settings = WorkerSettings(adapt_every=1e-6, adapt_min_new=100)
    an_adapter(registry, tmp_path)
    give(registry, 99)
    assert start_due_runs(registry, settings) == []
    give(registry, 1, first=99)
    (run,) = start_due_runs(registry, settings)
    assert (run.created_by, run.feedback_seen) == (SCHEDULE, 100)
    assert start_due_runs(registry, settings) == []
    registry.runs.cancel(run.id, outcome="test")
    assert start_due_runs(registry, settings) == []
    give(registry, 100, first=100)
    assert len(start_due_runs(registry, settings)) == 1


def test_the_adapters_policy_goes_before_the_workers_settings(registry: Registry, tmp_path: Path) -> None:
    """It makes runs start where the setting never would, and keeps them back where it would."""
    an_adapter(registry, tmp_path)
    give(registry, 100)
    never, always = WorkerSettings(), WorkerSettings(adapt_every=1e-6, adapt_min_new=100)
    registry.set_policy(BOT, Policy(adapt_every=0), by="test")
    assert start_due_runs(registry, always) == []
    registry.set_policy(BOT, Policy(adapt_every=1e-6, adapt_min_new=101), by="test")
    assert start_due_runs(registry, always) == []
    registry.set_policy(BOT, Policy(adapt_every=1e-6), by="test")
    assert len(start_due_runs(registry, never)) == 1


def test_nothing_starts_by_itself_unless_it_is_asked_for(registry: Registry, tmp_path: Path) -> None:
    """The default is never; and an interval that has not passed is waited for."""
    an_adapter(registry, tmp_path)
    give(registry, 200)
    assert start_due_runs(registry, WorkerSettings()) == []
    assert start_due_runs(registry, WorkerSettings(adapt_every="6h", adapt_min_new=10)) == []


def test_a_run_starts_after_so_much_feedback_and_not_again_for_it(registry: Registry, tmp_path: Path) -> None:
    """However it ended: a run that failed at once waits for new feedback, tick after tick."""
    an_adapter(registry, tmp_path)
    registry.set_policy(BOT, Policy(adapt_after=100), by="test")
    give(registry, 100)
    for first in (100, 200):
        (run,) = start_due_runs(registry, WorkerSettings())
        registry.runs.save(run.model_copy(update={"status": "failed", "outcome": "at once"}))
        assert [start_due_runs(registry, WorkerSettings()) for _ in range(3)] == [[], [], []]
        give(registry, 100, first=first)


def test_the_day_has_a_cap_that_counts_only_what_started_by_itself(registry: Registry, tmp_path: Path) -> None:
    """A person's run is not counted, and is not kept back by it."""
    an_adapter(registry, tmp_path)
    registry.set_policy(BOT, Policy(adapt_after=1, runs_a_day=2), by="test")
    for number in range(4):
        give(registry, 100, first=100 * number)
        by_hand = begin(registry, RunSpec(adapter=BOT), by="ann")
        registry.runs.cancel(by_hand.id, outcome="test")
        give(registry, 1, first=1000 + number)
        started = start_due_runs(registry, WorkerSettings())
        assert len(started) == (number < 2), number
        for run in started:
            registry.runs.cancel(run.id, outcome="test")


def test_a_run_searches_with_what_the_policy_says(registry: Registry, tmp_path: Path) -> None:
    """One that starts by itself, and one whose caller leaves it open; what a caller says goes before it."""
    an_adapter(registry, tmp_path)
    options = RunOptions(optimizer="random_search", space="factors", max_item_generations=4000, min_feedback=20)
    registry.set_policy(BOT, Policy(adapt_after=1, run=options), by="test")
    give(registry, 30)
    (run,) = start_due_runs(registry, WorkerSettings())
    assert (run.spec.optimizer, run.spec.space, run.spec.max_item_generations) == ("random_search", "factors", 4000)
    registry.runs.cancel(run.id, outcome="test")
    by_hand = begin(registry, RunSpec(adapter=BOT, space="delta"), by="ann")
    assert (by_hand.spec.optimizer, by_hand.spec.space) == ("random_search", "delta")


def test_a_late_tick_does_not_begin_what_was_begun_and_has_ended(registry: Registry, tmp_path: Path) -> None:
    """Two ticks decide upon the same latest run; the first one's run has ended when the second acts: there is one run."""
    an_adapter(registry, tmp_path)
    give(registry, 100)
    first = begin(registry, RunSpec(adapter=BOT), by=SCHEDULE, after="")
    with pytest.raises(RunGoing):
        begin(registry, RunSpec(adapter=BOT), by=SCHEDULE, after="")
    registry.runs.cancel(first.id, outcome="test")
    with pytest.raises(Conflict, match="began and ended meanwhile"):
        begin(registry, RunSpec(adapter=BOT), by=SCHEDULE, after="")
    assert [run.id for run in registry.runs.list(BOT)] == [first.id]
    second = begin(registry, RunSpec(adapter=BOT), by=SCHEDULE, after=first.id)
    assert registry.runs.latest(BOT) == second


def _ticks(settings: RegistrySettings, rounds: int, together: Barrier) -> None:
    """A scheduler of its own process, whose runs end as soon as they begin."""
    registry = Registry.open(settings)
    for _ in range(rounds):
        together.wait(60)
        for _ in range(3):
            for run in start_due_runs(registry, WorkerSettings()):
                registry.runs.cancel(run.id, outcome="at once")
        together.wait(60)
    registry.close()


def test_two_schedulers_at_once_start_one_run_for_one_reason(
    registry: Registry, registry_settings: RegistrySettings, tmp_path: Path
) -> None:
    """Two real processes tick at the same moment, three times each, and every run ends at once: one run a batch of feedback."""
    an_adapter(registry, tmp_path)
    registry.set_policy(BOT, Policy(adapt_after=100), by="test")
    spawn, rounds = multiprocessing.get_context("spawn"), 5
    together = spawn.Barrier(3)
    beats = [spawn.Process(target=_ticks, args=(registry_settings, rounds, together)) for _ in range(2)]
    for beat in beats:
        beat.start()
    try:
        for number in range(rounds):
            give(registry, 100, first=100 * number)
            together.wait(120)  # both tick
            together.wait(120)  # both have
            assert len(registry.runs.list(BOT)) == number + 1
    finally:
        together.abort()
        for beat in beats:
            beat.join(30)
            beat.kill()


def test_none_begins_beside_a_persons_trial(registry: Registry, tmp_path: Path) -> None:
    """What it finds could go nowhere; once the trial is over it begins, without more feedback."""
    an_adapter(registry, tmp_path)
    registry.set_policy(BOT, Policy(adapt_after=10), by="test")
    give(registry, 100)
    registry.start_canary(BOT, 2, 0.1, by="ann")
    memory = Memory()
    assert [start_due_runs(registry, WorkerSettings(), memory) for _ in range(2)] == [[], []]
    registry.end_canary(BOT, by="ann")
    assert len(start_due_runs(registry, WorkerSettings(), memory)) == 1


def test_one_adapters_trouble_holds_no_other_up(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong with one, those after it by name begin; and it is not tried at every tick."""
    an_adapter(registry, tmp_path)
    registry.register("abe", tmp_path / "expert-0", by="test")
    registry.promote("abe", 1, by="test")
    for name in ("abe", BOT):
        registry.set_policy(name, Policy(adapt_after=10), by="test")
    give(registry, 100)
    real, tried = schedule._start_if_due, []

    def failing(registry: Registry, settings: WorkerSettings, adapter: Adapter, *rest: Any, **how: Any) -> Run | None:
        tried.append(adapter.name)
        if adapter.name == "abe":
            raise OverflowError("date value out of range")
        return real(registry, settings, adapter, *rest, **how)

    monkeypatch.setattr(schedule, "_start_if_due", failing)
    memory = Memory()
    assert [run.spec.adapter for run in start_due_runs(registry, WorkerSettings(), memory)] == [BOT]
    assert start_due_runs(registry, WorkerSettings(), memory) == []
    assert tried == ["abe", BOT, BOT]


def test_what_cannot_begin_is_not_tried_at_every_tick(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Feedback that says nothing usable is read once; more of it, or a move, and it is asked again."""
    an_adapter(registry, tmp_path)
    registry.set_policy(BOT, Policy(adapt_after=10), by="test")
    tried: list[str] = []
    real = schedule.begin
    monkeypatch.setattr(schedule, "begin", lambda *args, **how: (tried.append("begin"), real(*args, **how))[1])
    give(registry, 10)
    memory = Memory()
    assert [start_due_runs(registry, WorkerSettings(), memory) for _ in range(3)] == [[], [], []]
    assert len(tried) == 1
    give(registry, 90, first=10)
    (run,) = start_due_runs(registry, WorkerSettings(), memory)
    registry.runs.cancel(run.id, outcome="test")


def test_an_adapter_that_lacked_experts_is_asked_again_when_it_has_them(registry: Registry, tmp_path: Path) -> None:
    """An import moves no rollout, and is noticed all the same."""
    registry.register(BOT, write_adapter(tmp_path / "one", seed=1), by="test")
    registry.promote(BOT, 1, by="test")
    registry.set_policy(BOT, Policy(adapt_after=10), by="test")
    give(registry, 100)
    memory = Memory()
    assert [start_due_runs(registry, WorkerSettings(), memory) for _ in range(2)] == [[], []]
    registry.register(BOT, write_adapter(tmp_path / "two", seed=2), by="test")
    assert len(start_due_runs(registry, WorkerSettings(), memory)) == 1


def test_looks_are_counted_of_a_champion_from_the_records_of_runs(registry: Registry, tmp_path: Path) -> None:
    """A decision counts once however often it is asked; a run without one (cancelled, too few items) does not; a new champion
    begins at none, and one that comes back has the looks that it had."""
    an_adapter(registry, tmp_path)
    give(registry, 100)

    def look(**decision: object) -> int:
        run = begin(registry, RunSpec(adapter=BOT), by="test")
        before = looks_before(registry, run)
        decided = registry.runs.save(run.model_copy(update={"decision": decision or None}))
        assert decided is not None
        assert looks_before(registry, decided) == before
        registry.runs.cancel(run.id, outcome="test")
        return before

    assert [look(tested=True, n=50), look(n=50), look(), look(tested=False, n=12), look(n=12)] == [0, 1, 2, 2, 2]
    registry.promote(BOT, 2, by="test")
    assert [look(tested=True), look(tested=True)] == [0, 1]
    registry.roll_back(BOT, by="test")
    assert look() == 2


def test_a_run_keeps_the_gate_of_the_policy_that_it_began_under(registry: Registry, tmp_path: Path) -> None:
    """A policy that changes while it goes is for the next one."""
    an_adapter(registry, tmp_path)
    give(registry, 100)
    registry.set_policy(BOT, Policy.read({"gate": {"level": 0.9, "correction": "none"}}), by="test")
    run: Run = begin(registry, RunSpec(adapter=BOT), by="test")
    registry.set_policy(BOT, Policy(), by="test")
    kept = registry.runs.get(run.id).gate
    assert (kept.level, kept.correction) == (0.9, "none")


def rate(registry: Registry, n: int, good: float, first: int, version: int = 1, *, at: datetime | None = None) -> None:
    """``n`` ratings of a version, of which a share is good, spread evenly."""
    told = [
        Feedback(
            id=f"r{i}",
            adapter=BOT,
            version=version,
            prompt=f"question {i}",
            answer="x",
            rating=float(int((i + 1) * good) > int(i * good)),
            at=at or now(),
        )
        for i in range(first, first + n)
    ]
    registry.feedback.add_many(told)


def test_a_run_starts_when_the_champions_rating_is_shown_to_have_fallen(registry: Registry, tmp_path: Path) -> None:
    """Not for another version's ratings, nor while it holds; once when it fell, and not again before there is another block of
    ratings; a new champion is compared with its own first ratings."""
    an_adapter(registry, tmp_path)
    registry.set_policy(BOT, Policy.read({"adapt_on_drop": {"by": 0.05, "ratings": 100}}), by="test")
    memory, settings = Memory(), WorkerSettings()
    rate(registry, 200, 0.8, first=0)
    rate(registry, 100, 0.1, first=200, version=2)
    assert start_due_runs(registry, settings, memory) == []
    rate(registry, 99, 0.4, first=300)
    assert start_due_runs(registry, settings, memory) == []  # the second block is not whole yet
    rate(registry, 11, 0.4, first=399)
    (run,) = start_due_runs(registry, settings, memory)
    assert "fell from 0.80 to 0.4" in run.spec.reason
    registry.runs.cancel(run.id, outcome="test")
    assert start_due_runs(registry, settings, Memory()) == []
    rate(registry, 60, 0.4, first=410)
    assert start_due_runs(registry, settings, Memory()) == []
    rate(registry, 40, 0.4, first=470)
    (again,) = start_due_runs(registry, settings, Memory())
    registry.runs.cancel(again.id, outcome="test")
    registry.promote(BOT, 2, by="test")
    rate(registry, 200, 0.3, first=600, version=2)
    assert start_due_runs(registry, settings, Memory()) == []


LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def test_feedback_of_long_ago_makes_no_old_rating_new(registry: Registry, tmp_path: Path) -> None:
    """A backlog is imported after the run that answered a fall: the block before that run is not tested again for it."""
    an_adapter(registry, tmp_path)
    registry.set_policy(BOT, Policy.read({"adapt_on_drop": {"by": 0.05, "ratings": 100}}), by="test")
    rate(registry, 200, 0.8, first=0)
    rate(registry, 100, 0.4, first=200)
    (run,) = start_due_runs(registry, WorkerSettings())
    registry.runs.cancel(run.id, outcome="test")
    rate(registry, 100, 0.8, first=300, at=LONG_AGO)
    assert start_due_runs(registry, WorkerSettings()) == []


def test_a_fall_is_seen_behind_feedback_of_long_ago(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One old item at the end of a page hides none of the ratings that came before it."""
    monkeypatch.setattr(live_ratings, "_PAGE", 101)
    an_adapter(registry, tmp_path)
    registry.set_policy(BOT, Policy.read({"adapt_on_drop": {"by": 0.05, "ratings": 100}}), by="test")
    rate(registry, 200, 0.8, first=0)
    rate(registry, 1, 0.8, first=200, at=LONG_AGO)
    rate(registry, 100, 0.4, first=201)
    (run,) = start_due_runs(registry, WorkerSettings())
    assert "fell from 0.80 to 0.4" in run.spec.reason
