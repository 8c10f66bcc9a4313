"""The edges: each task parses its message, calls one function, and records nothing itself.

Every task may be delivered twice, late, or to two workers at once.
"""

from __future__ import annotations

import atexit
import functools
import time
from typing import TYPE_CHECKING, Any

from celery.signals import worker_ready
from celery.utils.log import get_task_logger

from registry import logs
from registry.connection import connect
from registry.keys import Keys
from registry.queues import ADVANCE, CONTROL, SCORE, SCORE_SLICE, TICK
from registry.records import Run, WorkerKind
from registry.registry import Registry
from registry.run_spans import RunSpans
from registry.settings import RegistrySettings
from registry.tracing import Tracer
from registry.workers import Workers
from swarm_worker.canary import tend_trials
from swarm_worker.celery_app import app
from swarm_worker.policy import Memory, start_due_runs
from swarm_worker.presence import Presence
from swarm_worker.run import RunDriver
from swarm_worker.run_log import tell_move
from swarm_worker.settings import WorkerSettings
from swarm_worker.slice_spans import context_of, scoring
from swarm_worker.watchdog import Watchdog

if TYPE_CHECKING:
    from swarm_worker.slices import SliceScorer

log = get_task_logger("shoal")


@functools.cache
def driver() -> RunDriver:
    """One driver a process: the registry's connection, and how to send the next message."""
    registry = Registry.open(RegistrySettings.load())
    spans = RunSpans(collector, registry.runs) if (collector := tracer()) else None

    def moved(run: Run) -> None:
        tell_move(run)
        if spans:
            spans.moved(run)

    registry.runs.on_move = moved
    return RunDriver(
        registry=registry,
        settings=WorkerSettings.load(),
        send_slice=lambda message: app.send_task(SCORE_SLICE, kwargs=message, headers=context_of(tracer(), message)),
        send_advance=lambda run_id, seconds: app.send_task(ADVANCE, args=[run_id], countdown=seconds),
        log=log.info,
    )


@functools.cache
def tracer() -> Tracer | None:
    """One tracer a process, where traces are collected; what it holds is sent when the process ends."""
    return Tracer.from_environment("shoal-worker", logs.process_name("worker"))


@functools.cache
def _memory() -> Memory:
    """What ``start_due_runs`` remembers from tick to tick in this process."""
    return Memory()


@functools.cache
def presence(kind: WorkerKind) -> Presence:
    """What this process tells of itself as a worker of this kind, from the first call on."""
    settings = RegistrySettings.load()
    told = Presence(kind, Workers(connect(settings.redis_url), Keys(settings.namespace)))
    told.start()
    atexit.register(told.stop)
    return told


def _appear(sender: Any, **_: Any) -> None:
    kinds: dict[str, WorkerKind] = {CONTROL: "control", SCORE: "score"}
    for queue in sender.app.amqp.queues.consume_from:
        if queue in kinds:
            presence(kinds[queue])


worker_ready.connect(_appear, weak=False)


@app.task(name=ADVANCE)
def advance(run_id: str) -> None:
    """Move a run on, as far as it can go now."""
    began, watchdog = time.monotonic(), Watchdog(driver().settings.control_deadline)
    with logs.bound(run=run_id), presence("control").doing(run_id), watchdog.watching():
        driver().advance(run_id)
    presence("control").did(time.monotonic() - began)


@app.task(name=SCORE_SLICE)
def score_slice(run: str, step: str, index: int, work: dict[str, Any]) -> None:
    """Score one slice of a step and report it; the last one to report moves the run on, the others call the next slice."""
    with logs.bound(run=run, step=step, slice=index):
        worker = _scorer()
        if worker is None:  # this one cannot, another may
            driver().send_slice({"run": run, "step": step, "index": index, "work": work})
            time.sleep(driver().settings.trouble_pause)
            return
        span = scoring(tracer(), app.current_task, run, step, index)
        with presence("score").doing(run, step=step, index=index), worker.watchdog.watching(), span as told:
            began = time.monotonic()
            missing = worker.score(run, step, index, work)
            told(missing)
        if missing is None:
            return
        presence("score").did(time.monotonic() - began)
        if missing == 0:
            app.send_task(ADVANCE, args=[run])
        else:
            driver().send_due(run, step)


def _scorer() -> SliceScorer | None:
    """This process's scorer; None where its base cannot be loaded, which is said where all can read it."""
    from swarm_worker.slices import scorer  # torch loads here, in scoring workers only

    settings = driver().settings
    try:
        with Watchdog(settings.stall_seconds).watching():  # a load that hangs would look like a worker that is well
            found = scorer(driver().registry, settings)
    except Exception as error:
        log.exception("the base cannot be loaded")
        presence("score").troubled(f"The base cannot be loaded: {type(error).__name__}: {error}")
        return None
    presence("score").well()
    return found


@app.task(name=TICK)
def tick() -> None:
    """Look after the trials and the runs that are going, and start those that are due. Nothing where another has just begun:
    after an outage many come at once."""
    if not driver().registry.workers.ticks(driver().settings.tick_seconds / 2):
        return
    with Watchdog(driver().settings.control_deadline).watching():
        for told in tend_trials(driver().registry):
            log.info("%s", told)
        driver().look_after()
        _start_due()


def _start_due() -> None:
    for run in start_due_runs(driver().registry, driver().settings, _memory()):
        log.info("run %s of %s starts by itself: %s", run.id, run.spec.adapter, run.spec.reason)
        app.send_task(ADVANCE, args=[run.id])
