"""Celery itself: two schedulers beat at once into two control workers, and every run ends as soon as it is seen."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from registry.policy import Policy
from registry.records import Run
from registry.registry import Registry
from registry.settings import RegistrySettings
from tests.integration.test_policy import BOT, an_adapter, give

ROOT = Path(__file__).parents[2]
CELERY = (sys.executable, "-m", "celery", "-A", "swarm_worker.celery_app")
TICKS = 10
"""How many ticks each worker is watched for after a run ended, about."""
TICK_SECONDS = 0.3


@contextmanager
def two_of_each(settings: RegistrySettings, home: Path) -> Iterator[None]:
    """Two control workers and two schedulers, as ``shoal up`` starts one of each."""
    given = os.environ | {
        "PYTHONPATH": str(ROOT),
        "SHOAL_REDIS_URL": settings.redis_url,
        "SHOAL_NAMESPACE": settings.namespace,
        "SHOAL_ARTIFACTS_URL": settings.artifacts_url,
        "SHOAL_CACHE_DIR": str(settings.cache_dir),
        "SHOAL_HOME": str(home),
        "SHOAL_TICK_SECONDS": str(TICK_SECONDS),
    }
    worker = ("worker", "-P", "solo", "--without-mingle", "--without-gossip", "-Q", "control")
    commands = [(*CELERY, *worker, "-n", f"control{number}@%h") for number in range(2)]
    commands += [(*CELERY, "beat", "-s", str(home / f"beat{number}"), "--pidfile=") for number in range(2)]
    with (home / "celery.log").open("ab") as log:
        started = [subprocess.Popen(command, cwd=home, env=given, stdout=log, stderr=log) for command in commands]
    try:
        yield
    finally:
        for process in started:
            process.kill()
        for process in started:
            process.wait(30)


def end_whatever_goes(registry: Registry) -> list[Run]:
    runs = registry.runs.list(BOT)
    for run in runs:
        registry.runs.cancel(run.id, outcome="at once")
    return runs


def test_two_beats_start_one_run_for_one_reason(
    registry: Registry, registry_settings: RegistrySettings, tmp_path: Path
) -> None:
    """Each batch of feedback starts one run, though four processes tick over and over and no run lasts."""
    an_adapter(registry, tmp_path)
    registry.set_policy(BOT, Policy(adapt_after=100), by="test")
    with two_of_each(registry_settings, tmp_path):
        for batch in range(3):
            give(registry, 100, first=100 * batch)
            deadline = time.monotonic() + 180
            while len(end_whatever_goes(registry)) <= batch:
                assert time.monotonic() < deadline, (tmp_path / "celery.log").read_text()[-3000:]
                time.sleep(0.02)
            until = time.monotonic() + TICKS * TICK_SECONDS
            while time.monotonic() < until:
                end_whatever_goes(registry)
                time.sleep(0.02)
            assert len(registry.runs.list(BOT)) == batch + 1
