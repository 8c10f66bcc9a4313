"""Who does what: what workers tell of themselves, what keeps one from working, and what becomes of one that stands still."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from registry.adaptation import begin
from registry.records import Run, RunSpec, Worker, now
from registry.registry import Registry
from registry.settings import RegistrySettings
from registry.workers import Workers
from swarm_worker.presence import Presence
from swarm_worker.run import TRIES, RunDriver
from tests.served_app import serving
from tests.workshop import BOT, Workshop, engine, give_feedback, workshop

__all__ = ["engine", "workshop"]  # fixtures
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def worker(identity: str, **fields: object) -> Worker:
    return Worker.model_validate(
        {"id": identity, "kind": "score", "host": "here", "pid": 7, "since": now(), "at": now()} | fields
    )


def test_a_worker_is_listed_while_it_beats(registry: Registry) -> None:
    """By kind; a silent one's record ends by itself, and one that says goodbye is gone at once."""
    registry.workers.beat(worker("silent"), ttl=0.05)
    registry.workers.beat(worker("c", kind="control"))
    registry.workers.beat(worker("a"))
    registry.workers.beat(worker("b"))
    registry.workers.gone("b")
    while "silent" in (listed := [each.id for each in registry.workers.live()]):
        time.sleep(0.01)
    assert listed == ["c", "a"]
    assert [each.id for each in registry.workers.live("score")] == ["a"]


def test_a_newer_workers_record_is_read(registry: Registry) -> None:
    """In the middle of an upgrade one worker may say more than another knows of."""
    assert Worker.model_validate(worker("a").model_dump() | {"gpu": 3}).id == "a"


def test_presence_tells_what_the_process_is_at(registry: Registry) -> None:
    """The slice at hand while it is being scored, how many were, how long they took; and it leaves when the process does."""
    presence = Presence("score", registry.workers, every=0.01)
    presence.start()
    with presence.doing("run-1", step="search-3", index=4):
        told = until_told(registry.workers, run="run-1")
        assert (told.kind, told.step, told.slice) == ("score", "search-3", 4)
        assert told.began is not None
    presence.did(2.0)
    presence.did(4.0)
    told = until_told(registry.workers, run=None, done=2)
    assert told.seconds_each == 3.0
    presence.stop()
    assert registry.workers.live() == []


def until_told(workers: Workers, **fields: object) -> Worker:
    until = time.monotonic() + 10
    while True:
        for each in workers.live():
            if all(getattr(each, name) == value for name, value in fields.items()):
                return each
        assert time.monotonic() < until, workers.live()
        time.sleep(0.01)


def test_a_base_that_no_worker_can_load_ends_the_run_with_the_reason(workshop: Workshop) -> None:
    """As long as one worker might, the run waits; where all have tried again and again, it has failed and says why."""
    give_feedback(workshop, 120)
    run = begin(workshop.registry, RunSpec(adapter=BOT), by="test")
    workshop.driver.advance(run.id)
    settings = workshop.driver.settings.model_copy(update={"stuck_seconds": 1e-9})
    driver = RunDriver(workshop.registry, settings, workshop.queue.append, lambda run_id, seconds: None)
    workers = workshop.registry.workers
    workers.beat(worker("bad", trouble="no such folder: /base", tries=TRIES))
    workers.beat(worker("good"))
    for _ in range(2):
        driver.look_after()
    assert workshop.registry.runs.get(run.id).going
    workers.gone("good")
    for _ in range(2):
        driver.look_after()
    ended = workshop.registry.runs.get(run.id)
    assert ended.status == "failed"
    assert "here: no such folder: /base" in ended.outcome


def test_a_run_waits_for_workers_that_are_not_there(workshop: Workshop) -> None:
    """Nobody to score is no failure: somebody may be starting."""
    give_feedback(workshop, 120)
    run = begin(workshop.registry, RunSpec(adapter=BOT), by="test")
    settings = workshop.driver.settings.model_copy(update={"stuck_seconds": 1e-9})
    driver = RunDriver(workshop.registry, settings, workshop.queue.append, lambda run_id, seconds: None)
    for _ in range(3):
        driver.look_after()
    assert workshop.registry.runs.get(run.id).status == "searching"


async def test_the_api_lists_workers(registry_settings: RegistrySettings, registry: Registry, tmp_path: Path) -> None:
    """Each as it told of itself."""
    registry.workers.beat(worker("a", done=3, seconds_each=0.5))
    async with serving(registry_settings, tmp_path) as client:
        (told,) = (await client.get("/api/workers")).json()["workers"]
    assert (told["id"], told["kind"], told["done"], told["run"]) == ("a", "score", 3, None)


async def test_a_key_for_some_adapters_sees_every_worker_and_its_own_runs_alone(
    registry_settings: RegistrySettings, registry: Registry, tmp_path: Path
) -> None:
    """Workers are everybody's; one that is at another adapter's run looks as one that is at nothing."""
    at: dict[str, object] = {"step": "search-3", "slice": 2, "began": now(), "done": 3}
    for adapter in (BOT, "other"):
        registry.runs.create(
            Run(id=f"run-{adapter}", spec=RunSpec(adapter=adapter), created_at=now(), created_by="test")
        )
        registry.workers.beat(worker(f"at-{adapter}", run=f"run-{adapter}", **at))
    _, token = registry.api_keys.create("ops", ["operate"], by="test", adapters=[BOT])
    async with serving(registry_settings, tmp_path) as client:
        every = (await client.get("/api/workers")).json()["workers"]
        seen = (await client.get("/api/workers", headers={"authorization": f"Bearer {token}"})).json()["workers"]
    assert [one["run"] for one in every] == [f"run-{BOT}", "run-other"]
    assert seen == [every[0], every[1] | {"run": None, "step": "", "slice": None, "began": None}]


@pytest.mark.parametrize("work", ["time.sleep(60)", "re.match('(a+)+b', 'a' * 60)"])
def test_a_process_that_stands_still_ends_and_says_where(work: str) -> None:
    """Waiting for ever, or busy for ever with the interpreter locked: it is ended, and its last words name the line."""
    script = (
        f"import re, time\nfrom swarm_worker.watchdog import Watchdog\nwith Watchdog(0.5).watching():\n    {work}\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50, check=False)
    assert ended.returncode == 1
    assert "Timeout" in ended.stderr
    assert "line 4 in <module>" in ended.stderr


def test_a_process_that_makes_progress_is_left_alone() -> None:
    """Longer than the deadline, step by step; and after the work the timer is off."""
    script = """
import time
from swarm_worker.watchdog import Watchdog
watchdog = Watchdog(3.0)
watchdog.progress()
with watchdog.watching():
    for _ in range(8):
        time.sleep(0.5)
        watchdog.progress()
time.sleep(3.5)
"""
    subprocess.run([sys.executable, "-c", script], timeout=60, check=True)


async def test_a_reader_of_events_goes_on_where_it_was(
    workshop: Workshop, registry_settings: RegistrySettings, tmp_path: Path
) -> None:
    """Each state once, oldest first, with its revision as id; whoever comes back with the last one is told the rest."""
    give_feedback(workshop, 120)
    run = begin(workshop.registry, RunSpec(adapter=BOT), by="test")
    workshop.driver.advance(run.id)
    ended = workshop.registry.runs.cancel(run.id, outcome="test")
    async with serving(registry_settings, tmp_path) as client:
        every = (await client.get(f"/api/runs/{run.id}/events")).text
        rest = (await client.get(f"/api/runs/{run.id}/events", headers={"last-event-id": "0"})).text
    assert [line for line in every.splitlines() if line.startswith("id: ")] == ["id: 0", "id: 1", "id: 2"]
    assert [line for line in rest.splitlines() if line.startswith("id: ")] == ["id: 1", "id: 2"]
    assert ended.revision == 2


def test_runs_take_turns(workshop: Workshop) -> None:
    """A run of large generations that came first does not keep a small one waiting: the small one's first generation is scored
    before the large one's; and where more workers are there, more of a run is under way, so that each has work."""
    give_feedback(workshop, 120)
    settings = workshop.driver.settings.model_copy(update={"slice_deadline": 600.0})
    workshop.driver = RunDriver(workshop.registry, settings, workshop.queue.append, lambda run_id, seconds: None)
    runs, turns = workshop.registry.runs, []
    workshop.registry.create_adapter("small", by="test")
    large = begin(workshop.registry, RunSpec(adapter=BOT), by="test")
    small = runs.create(large.model_copy(update={"id": "run-small", "spec": RunSpec(adapter="small")}))
    for run, slices in ((large, 40), (small, 6)):
        messages = [{"run": run.id, "step": "search-0", "index": index} for index in range(slices)]
        runs.open_step(run.id, "search-0", messages)
        workshop.driver.send_due(run.id, "search-0")
    assert len(workshop.queue) == 2 * settings.slices_ahead
    while workshop.queue:
        message = workshop.queue.pop(0)
        where = (message["run"], message["step"], message["index"])
        fence = runs.claim(*where, lease_seconds=600)
        assert fence is not None
        runs.report(*where, fence, {})
        turns.append(message["run"])
        workshop.driver.send_due(message["run"], message["step"])
    assert len(turns) == 46
    last_of_small = max(turn for turn, run_id in enumerate(turns) if run_id == small.id)
    assert last_of_small < 2 * 6 + settings.slices_ahead
    for number in range(5):
        workshop.registry.workers.beat(worker(f"w{number}"))
    runs.open_step(large.id, "search-1", [{"run": large.id, "index": index} for index in range(40)])
    workshop.driver.send_due(large.id, "search-1")
    assert len(workshop.queue) == 10


def test_of_many_ticks_at_once_one_does_something(registry: Registry) -> None:
    """By Redis's clock, whatever the clocks of beats and workers say; and when it was is there for whoever asks."""
    assert registry.workers.ticked_at() is None
    assert [registry.workers.ticks(60) for _ in range(3)] == [True, False, False]
    assert registry.workers.ticks(1e-6)
    seconds, micros = registry.redis.time()
    assert 0 <= seconds + micros / 1e6 - (registry.workers.ticked_at() or 0) < 60
