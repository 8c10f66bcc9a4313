"""Record answers so that feedback can name them: off the request's path, in batches, counted when dropped."""

from __future__ import annotations

import logging
import queue
import threading
import time

from registry.errors import RegistryDown
from registry.interactions import Interactions
from registry.records import Interaction

log = logging.getLogger("shoal.interactions")

WAITING = 50_000
"""Answers kept while Redis is away; beyond that the newest are dropped, and counted."""


class Recorder:
    """A thread that writes interactions in batches. ``record`` never waits."""

    def __init__(self, interactions: Interactions, *, batch: int = 200, every: float = 0.05) -> None:
        self._interactions = interactions
        self._batch, self._every = batch, every
        self._waiting: queue.Queue[Interaction] = queue.Queue(maxsize=WAITING)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._write_on, name="interactions", daemon=True)
        self.dropped = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Write what waits, as far as Redis takes it."""
        self._stopping.set()
        self._thread.join(timeout)

    def record(self, interaction: Interaction) -> None:
        try:
            self._waiting.put_nowait(interaction)
        except queue.Full:
            self.dropped += 1

    def settle(self, timeout: float = 2.0) -> None:
        """Wait until what was recorded up to now is written: feedback may follow its answer at once."""
        deadline = time.monotonic() + timeout
        while self._waiting.unfinished_tasks and time.monotonic() < deadline:
            time.sleep(0.005)

    def _write_on(self) -> None:
        while True:
            batch = self._take()
            if not batch:
                if self._stopping.is_set():
                    return
                continue
            while not self._write(batch) and not self._stopping.is_set():
                time.sleep(1.0)
            for _ in batch:
                self._waiting.task_done()

    def _take(self) -> list[Interaction]:
        batch: list[Interaction] = []
        try:
            batch.append(self._waiting.get(timeout=self._every))
            while len(batch) < self._batch:
                batch.append(self._waiting.get_nowait())
        except queue.Empty:
            pass
        return batch

    def _write(self, batch: list[Interaction]) -> bool:
        try:
            self._interactions.add_many(batch)
        except RegistryDown as error:
            log.warning("%d answers wait to be recorded: %s", len(batch) + self._waiting.qsize(), error)
            return False
        except Exception:
            # Whatever it is: recording goes on with the next ones, and these are counted.
            log.exception("%d answers cannot be recorded", len(batch))
            self.dropped += len(batch)
        return True
