"""What this process is doing, told to the registry every other second, from a thread of its own."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from registry.errors import ShoalError
from registry.records import Worker, WorkerKind, now
from registry.workers import Workers

log = logging.getLogger("shoal.presence")
EVERY_SECONDS = 2.0


class Presence:
    """One worker's record. Safe for threads: the work says what it does, the heartbeat tells it."""

    def __init__(self, kind: WorkerKind, workers: Workers, *, every: float = EVERY_SECONDS) -> None:
        host, pid, at = socket.gethostname(), os.getpid(), now()
        identity = f"{kind}@{host}-{pid}-{secrets.token_hex(2)}"  # a process id comes back one day
        self._worker = Worker(id=identity, kind=kind, host=host, pid=pid, since=at, at=at)
        self._workers, self._every = workers, every
        self._lock, self._done = threading.Lock(), threading.Event()
        self._seconds = 0.0
        self._thread = threading.Thread(target=self._beat, name="presence", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Say goodbye. Repeatable."""
        if not self._done.is_set():
            self._done.set()
            self._thread.join()

    @property
    def worker(self) -> Worker:
        """The record as it would be told now."""
        with self._lock:
            return self._worker.model_copy(update={"at": now()})

    @contextmanager
    def doing(self, run: str, *, step: str = "", index: int | None = None) -> Iterator[None]:
        """This is what the process is at."""
        self._change(run=run, step=step, slice=index, began=now())
        try:
            yield
        finally:
            self._change(run=None, step="", slice=None, began=None)

    def did(self, seconds: float) -> None:
        """One more slice, or move, that took so long."""
        with self._lock:
            self._seconds += seconds
            done = self._worker.done + 1
            figures = {"done": done, "seconds_each": round(self._seconds / done, 4)}
            self._worker = self._worker.model_copy(update=figures)

    def troubled(self, why: str) -> int:
        """It cannot work, and why; how many times in a row it has been so."""
        tries = self.worker.tries + 1
        self._change(trouble=why, tries=tries)
        self._tell()
        return tries

    def well(self) -> None:
        """It can work (again)."""
        if self.worker.trouble:
            self._change(trouble="", tries=0)

    def _change(self, **fields: Any) -> None:
        with self._lock:
            self._worker = self._worker.model_copy(update=fields)

    def _beat(self) -> None:
        self._tell()
        while not self._done.wait(self._every):
            self._tell()
        try:
            self._workers.gone(self._worker.id)
        except ShoalError:
            log.debug("Redis is away: the record ends by itself")

    def _tell(self) -> None:
        try:
            self._workers.beat(self.worker)
        except ShoalError:
            log.debug("Redis is away: this worker is not listed until it is back")
