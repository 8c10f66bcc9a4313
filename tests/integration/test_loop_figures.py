"""The loop in numbers, read from the records: each run and each move counted once, however often somebody looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from registry.adaptation import begin
from registry.loop_figures import LoopReader
from registry.records import Feedback, RunSpec, now
from registry.registry import Registry
from tests.peft_folders import write_adapter

BOT = "bot"


@pytest.fixture
def used(registry: Registry, tmp_path: Path) -> Registry:
    """Three versions, a promotion and enough feedback for runs."""
    for number in range(3):
        registry.register(BOT, write_adapter(tmp_path / f"expert-{number}", seed=number), by="test")
    registry.promote(BOT, 1, by="test")
    given = [
        Feedback(id=f"f{i}", adapter=BOT, version=1, prompt=f"prompt {i}", answer="x", rating=float(i % 2), at=now())
        for i in range(200)
    ]
    registry.feedback.add_many(given)
    return registry


def a_run(registry: Registry, **ending: Any) -> None:
    """A run that ended so, with some work behind it."""
    run = begin(registry, RunSpec(adapter=BOT), by="test")
    worked = {"generation": 4, "item_generations": 100, "search_seconds": 2.5}
    assert registry.runs.save(run.model_copy(update=worked | {"finished_at": now()} | ending))


def test_runs_and_moves_are_counted_once_however_often_one_looks(used: Registry) -> None:
    """What ended is remembered; what is new is added; a second reader, who starts now, counts the same."""
    reader = LoopReader(used)
    reader.read()
    a_run(used, status="done", promoted=True, decision={"passed": True})
    a_run(used, status="stopped", decision={"passed": False})
    used.promote(BOT, 2, by="run-1")
    for _ in range(3):
        reader.read()
    a_run(used, status="failed")
    used.roll_back(BOT, by="canary")
    used.start_canary(BOT, 3, 0.5, by="ann")
    for looked in (reader.read(), reader.read(), LoopReader(used).read()):
        assert looked.ended == {(BOT, "promoted"): 1, (BOT, "stopped"): 1, (BOT, "failed"): 1}
        assert looked.decisions == {(BOT, "passed"): 1, (BOT, "failed"): 1}
        assert looked.moves == {
            (BOT, "promoted", "operator"): 1,
            (BOT, "promoted", "run"): 1,
            (BOT, "rolled_back", "canary"): 1,
            (BOT, "canary_started", "operator"): 1,
        }
        assert (looked.item_generations[BOT], looked.scoring_seconds[BOT]) == (300, 7.5)
        assert looked.generations[BOT] == 5 + 5 + 4  # the one that failed was in the middle of its last
        assert (looked.feedback[BOT], looked.unused[BOT]) == (200, 0)


def test_a_run_that_is_going_is_shown_as_it_is_and_its_work_counts_already(used: Registry) -> None:
    """It is looked at again and again, then it ends and is counted once."""
    reader = LoopReader(used)
    run = begin(used, RunSpec(adapter=BOT), by="test")
    used.feedback.add_many([Feedback(id="later", adapter=BOT, prompt="p", answer="x", rating=1.0, at=now())])
    saved = used.runs.save(run.model_copy(update={"status": "searching", "generation": 2, "item_generations": 50}))
    assert saved is not None
    for _ in range(2):
        looked = reader.read()
        going, moved_at = looked.going[BOT]
        assert (going.id, going.generation) == (run.id, 2)
        assert abs(moved_at - now().timestamp()) < 60
        assert (looked.item_generations[BOT], looked.generations[BOT], looked.unused[BOT]) == (50, 2, 1)
        assert looked.ended == {}
    used.runs.cancel(run.id, outcome="test")
    looked = reader.read()
    assert (looked.going, looked.item_generations[BOT]) == ({}, 50)
    assert looked.ended == {(BOT, "cancelled"): 1}


@pytest.mark.parametrize("ending", ["cancelled", "failed", "stopped", "done"])
def test_the_count_of_generations_never_falls(used: Registry, ending: str) -> None:
    """However a run ends, and wherever it was: Prometheus takes a fall for a restart and counts everything again."""
    reader = LoopReader(used)
    run = begin(used, RunSpec(adapter=BOT), by="test")
    seen = [reader.read().generations[BOT]]
    steps: list[dict[str, Any]] = [
        {"status": "searching"},
        {"generation": 1},
        {"status": "confirming", "searched": True},
        {"status": ending, "finished_at": now()},
    ]
    for step in steps:
        saved = used.runs.save(run.model_copy(update=step))
        assert saved is not None
        run = saved
        seen.append(reader.read().generations[BOT])
    assert seen == [0, 0, 1, 2, 2]


def test_a_look_reads_only_what_is_new(used: Registry) -> None:
    """What Redis sends back does not grow with the runs and events that there are."""

    def sent() -> int:
        before = int(used.redis.info("stats")["total_net_output_bytes"])
        reader.read()
        return int(used.redis.info("stats")["total_net_output_bytes"]) - before

    reader = LoopReader(used)
    reader.read()
    few = sent()
    for _ in range(30):
        a_run(used, status="stopped")
        used.start_canary(BOT, 3, 0.5, by="ann")
        used.end_canary(BOT, by="ann")
    assert sent() > 5 * few
    assert sent() < few + 30 * 40  # the ids of runs of the last minutes, in case a clock was wrong


def test_another_registry_is_counted_anew(used: Registry) -> None:
    """Emptied, or restored from an older file: nothing of what was counted before stays."""
    reader = LoopReader(used)
    a_run(used, status="stopped")
    assert reader.read().ended == {(BOT, "stopped"): 1}
    for key in used.redis.scan_iter(f"{used.settings.namespace}:*"):
        used.redis.delete(key)
    looked = reader.read()
    assert (looked.ended, looked.moves, looked.rollouts) == ({}, {}, {})


def test_ratings_are_those_of_loaded_versions(used: Registry) -> None:
    """Champion, challenger, the way back; over all that was said of them."""
    looked = LoopReader(used).read()
    assert {name: (told.mean, told.count) for name, told in looked.ratings.items()} == {f"{BOT}@1": (0.5, 200)}
    used.promote(BOT, 2, by="test")
    assert set(LoopReader(used).read().ratings) == {f"{BOT}@1", f"{BOT}@2"}
