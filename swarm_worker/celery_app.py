"""The Celery application: ``celery -A swarm_worker.celery_app worker -Q control`` (or ``-Q score``), and ``beat``."""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.signals import beat_init, celeryd_init, setup_logging

from registry import logs
from registry.queues import TICK, celery_options
from registry.settings import RegistrySettings
from swarm_worker.settings import WorkerSettings

SKEW_SECONDS = 600.0
"""By how much the clocks of a beat and of a control worker may differ."""


def build(registry: RegistrySettings, worker: WorkerSettings) -> Celery:
    """The application on the registry's Redis."""
    app = Celery("shoal", include=["swarm_worker.tasks"])
    app.conf.update(
        celery_options(registry.redis_url, registry.namespace),
        # A worker that dies gives its message back; every task is safe to run twice.
        task_acks_late=True,
        worker_prefetch_multiplier=1,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_send_task_events=False,
        # Ticks that nobody took do not pile up for ever. How old one is, is told by two machines' clocks, so not to the second;
        # of many that are taken at once one does something (``Workers.ticks``).
        beat_schedule={
            "tick": {
                "task": TICK,
                "schedule": worker.tick_seconds,
                "options": {"expires": worker.tick_seconds + SKEW_SECONDS},
            }
        },
        beat_max_loop_interval=worker.tick_seconds,
    )
    return app


def _celerys_logs_are_ours(loglevel: int, **_: Any) -> None:
    """Where they are JSON: Celery leaves its loggers alone as soon as anybody hears this signal."""
    logs.configure(level=loglevel)


def _name(sender: str, instance: Any, **_: Any) -> None:
    logs.name_process(worker=sender)
    if LOGS_ARE_JSON:
        instance.quiet = True  # its banner is written past everything, straight to the terminal


def _appear(**_: Any) -> None:
    from swarm_worker.tasks import presence  # knows this module

    presence("beat")


LOGS_ARE_JSON = logs.configure()
if LOGS_ARE_JSON:
    setup_logging.connect(_celerys_logs_are_ours, weak=False)
celeryd_init.connect(_name, weak=False)
beat_init.connect(_appear, weak=False)
app = build(RegistrySettings.load(), WorkerSettings.load())
