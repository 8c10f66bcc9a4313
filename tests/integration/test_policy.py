"""Runs that start by themselves: every so often, with enough new feedback, once."""

from __future__ import annotations

from pathlib import Path

from registry.policy import Policy
from registry.records import Feedback, now
from registry.registry import Registry
from swarm_worker.policy import SCHEDULE, start_due_runs
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
