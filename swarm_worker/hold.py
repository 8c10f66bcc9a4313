"""A slice that this worker has claimed: kept while it is being scored, given up when it is somebody else's or nobody's."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from registry.errors import NotFound, RegistryDown, ShoalError
from registry.runs import Runs

REST_SECONDS = 0.5
"""Between two attempts to report to a Redis that is away."""


class Unwanted(RuntimeError):
    """Nobody waits for the slice any more: its run ended, or another worker is at it."""


@dataclass
class Hold:
    """One claim. ``fence`` is its token; a slice that was taken over has a later one, and this worker's work is then void."""

    runs: Runs
    run_id: str
    step: str
    index: int
    fence: int
    lease_seconds: float
    _lost: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def take(cls, runs: Runs, run_id: str, step: str, index: int, *, lease_seconds: float) -> Hold | None:
        """None where there is nothing to do: the slice is reported, or somebody else is at it."""
        fence = runs.claim(run_id, step, index, lease_seconds=lease_seconds)
        return None if fence is None else cls(runs, run_id, step, index, fence, lease_seconds)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Renew the lease from a thread of its own: only a dead worker's slice is taken over."""
        done = threading.Event()

        def renew() -> None:
            while not done.wait(self.lease_seconds / 3):
                self._renew()

        thread = threading.Thread(target=renew, name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def goes_on(self) -> bool:
        """Whether the work is still wanted: the run goes, and the slice is this worker's. Asked between two
        positions, training steps or passes of the model."""
        try:
            return not self._lost.is_set() and self.runs.get(self.run_id).going
        except NotFound:
            return False
        except ShoalError:
            return True  # Redis is away for a moment: what is scored meanwhile is reported when it is back

    def report(self, report: dict[str, Any], *, patience: float) -> int | None:
        """How many slices are still missing, or None where the report came too late. A Redis that is away is waited for, so
        that the work is not lost; ``RegistryDown`` after ``patience`` seconds."""
        until = time.monotonic() + patience
        while True:
            try:
                return self.runs.report(self.run_id, self.step, self.index, self.fence, report)
            except RegistryDown:
                if time.monotonic() > until:
                    raise
                time.sleep(REST_SECONDS)

    def put_back(self, why: str) -> None:
        """Leave the slice to whoever comes next."""
        self.runs.put_back(self.run_id, self.step, self.index, self.fence, why=why)

    def _renew(self) -> None:
        try:
            mine = self.runs.renew(self.run_id, self.step, self.index, self.fence, lease_seconds=self.lease_seconds)
        except ShoalError:
            return  # Redis is away for a moment; if it stays away the slice is taken over, as it should be
        if not mine:
            self._lost.set()
