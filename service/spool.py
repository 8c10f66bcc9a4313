"""Feedback that came while Redis was away: on disk before it is acknowledged, replayed exactly once when Redis is back."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from registry.errors import InteractionUnknown, RegistryDown, ShoalError
from registry.records import now

log = logging.getLogger("shoal.spool")
PATIENCE_SECONDS = 3600.0
"""How long feedback waits for the answer that it names to be recorded."""


class Spool:
    """A journal of feedback bodies. Replay is safe to repeat, because every body carries its id."""

    def __init__(self, path: Path, take: Callable[[dict[str, Any]], Any], *, every: float = 1.0) -> None:
        self._path = path
        self._replaying = path.with_suffix(".replaying")
        self._take = take
        self._every = every
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._replay_on, name="feedback-spool", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(5.0)

    def add(self, bodies: list[dict[str, Any]]) -> None:
        """Write bodies down, each with its ``id``; they are on disk when this returns."""
        with self._lock:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(body) + "\n" for body in bodies)
                file.flush()
                os.fsync(file.fileno())

    def replay(self) -> int:
        """Hand everything spooled to the registry; how many were taken. RegistryDown: it stays spooled."""
        with self._lock:
            if not self._replaying.exists():
                if not self._path.exists():
                    return 0
                self._path.replace(self._replaying)
        taken = 0
        early: list[dict[str, Any]] = []
        for line in self._replaying.read_text(encoding="utf-8").splitlines():
            try:
                self._take(json.loads(line))
                taken += 1
            except InteractionUnknown as error:
                # Its answer was given while Redis was away, too, and may not be recorded yet.
                body = json.loads(line)
                if _age(body) < PATIENCE_SECONDS:
                    early.append(body)
                else:
                    log.warning("a spooled feedback item was refused: %s", error)
            except RegistryDown:
                raise  # nothing is lost: the whole file is replayed again, what was taken is known by its id
            except (ShoalError, ValueError) as error:
                # A half-written last line was never acknowledged; a refused body would be refused again for ever.
                log.warning("a spooled feedback item was refused: %s", error)
        if early:
            self.add(early)
        self._replaying.unlink()
        return taken

    def _replay_on(self) -> None:
        while not self._stopping.wait(self._every):
            try:
                if taken := self.replay():
                    log.info("%d spooled feedback items are in the registry", taken)
            except RegistryDown:
                continue


def _age(body: dict[str, Any]) -> float:
    """Seconds since the feedback came."""
    return (now() - datetime.fromisoformat(body["at"])).total_seconds() if "at" in body else float("inf")
