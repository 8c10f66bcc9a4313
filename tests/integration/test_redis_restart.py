"""Workers whose Redis is killed under them and comes back: they go on by themselves, and the run ends as it would have."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

import psutil

from registry.adaptation import begin
from registry.errors import RegistryDown
from registry.records import Run, RunSpec
from registry.registry import Registry
from registry.settings import RegistrySettings
from tests.corrected import BOT, PACK, correct
from tests.redis_server import RedisServer
from tests.worker_process import ended, machine

PATIENCE = 400.0  # seconds, for what takes a minute on a machine with nothing else to do
KINDS = ("control", "score", "beat")


def registry_on(redis: RedisServer, tmp_path: Path) -> Registry:
    settings = RegistrySettings(
        redis_url=redis.url,
        namespace="restart",
        artifacts_url=str(tmp_path / "artifacts"),
        cache_dir=str(tmp_path / "cache"),
        base=str(PACK.base),
    )
    registry = Registry.open(settings)
    for name in ("dedup", "shift", "swap"):
        registry.register(BOT, PACK.experts[name], by="test", label=name)
    registry.promote(BOT, 1, by="test")
    correct(registry, 120)
    return registry


def until_generation(registry: Registry, run: Run, generation: int) -> None:
    until = time.monotonic() + PATIENCE
    while registry.runs.get(run.id).generation < generation:
        assert time.monotonic() < until, registry.runs.get(run.id)
        time.sleep(0.05)


def test_workers_reconnect_and_finish_the_run(redis_process: RedisServer, tmp_path: Path) -> None:
    """Redis is killed twice in the middle of a run, each time for longer than a worker's patience with one command. The same
    worker processes take up their work again; what comes out is what an undisturbed run delivers, each state told once."""
    registry = registry_on(redis_process, tmp_path)
    spec = RunSpec(adapter=BOT, seed=1, max_generations=3, promote=False)
    with ExitStack() as stack:
        stack.callback(registry.close)
        logs = [stack.enter_context(machine(name, tmp_path / name, registry.settings)) for name in KINDS]
        undisturbed = ended(registry, begin(registry, spec, by="test"), logs, PATIENCE)
        workers = {worker.kind: worker.pid for worker in registry.workers.live()}
        assert set(workers) == set(KINDS)

        run = begin(registry, spec, by="test")
        for generation in (1, 2):
            until_generation(registry, run, generation)
            redis_process.kill()
            time.sleep(6)
            redis_process.start()
        until = time.monotonic() + PATIENCE
        while True:
            try:
                done = ended(registry, run, logs, PATIENCE)
                break
            except RegistryDown:
                assert time.monotonic() < until
                time.sleep(0.5)

        assert {worker.kind: worker.pid for worker in registry.workers.live()} == workers
        assert all(psutil.pid_exists(pid) for pid in workers.values())
        assert (done.status, done.coefficients, done.version) == (
            undisturbed.status,
            undisturbed.coefficients,
            undisturbed.version,
        )
        _, states = registry.runs.changes_after(run.id, "0")
        assert [state.revision for state in states] == list(range(done.revision + 1))
