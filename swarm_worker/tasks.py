"""The edges: each task parses its message, calls one function, and records nothing itself.

Every task may be delivered twice, late, or to two workers at once.
"""

from __future__ import annotations

import functools
from typing import Any

from celery.utils.log import get_task_logger

from registry import logs
from registry.queues import ADVANCE, SCORE_SLICE, TICK
from registry.registry import Registry
from registry.settings import RegistrySettings
from swarm_worker.canary import tend_trials
from swarm_worker.celery_app import app
from swarm_worker.policy import start_due_runs
from swarm_worker.run import RunDriver
from swarm_worker.run_log import tell_move
from swarm_worker.settings import WorkerSettings

log = get_task_logger("shoal")


@functools.cache
def driver() -> RunDriver:
    """One driver a process: the registry's connection, and how to send the next message."""
    registry = Registry.open(RegistrySettings.load())
    registry.runs.on_move = tell_move
    return RunDriver(
        registry=registry,
        settings=WorkerSettings.load(),
        send_slice=lambda message: app.send_task(SCORE_SLICE, kwargs=message),
        send_advance=lambda run_id, seconds: app.send_task(ADVANCE, args=[run_id], countdown=seconds),
        log=log.info,
    )


@functools.cache
def _refused() -> dict[str, tuple[int, int]]:
    """What ``start_due_runs`` remembers from tick to tick in this process."""
    return {}


@app.task(name=ADVANCE)
def advance(run_id: str) -> None:
    """Move a run on, as far as it can go now."""
    with logs.bound(run=run_id):
        driver().advance(run_id)


@app.task(name=SCORE_SLICE)
def score_slice(run: str, step: str, index: int, work: dict[str, Any]) -> None:
    """Score one slice of a step and report it; the last one to report moves the run on, the others call the next slice."""
    from swarm_worker.slices import scorer  # torch loads here, in scoring workers only

    with logs.bound(run=run, step=step, slice=index):
        missing = scorer(driver().registry, driver().settings).score(run, step, index, work)
        if missing == 0:
            app.send_task(ADVANCE, args=[run])
        elif missing is not None:
            driver().send_due(run, step)


@app.task(name=TICK)
def tick() -> None:
    """Look after the trials and the runs that are going, and start those that are due."""
    for told in tend_trials(driver().registry):
        log.info("%s", told)
    driver().look_after()
    for run in start_due_runs(driver().registry, driver().settings, _refused()):
        log.info("run %s of %s starts by itself: %s", run.id, run.spec.adapter, run.spec.reason)
        app.send_task(ADVANCE, args=[run.id])
