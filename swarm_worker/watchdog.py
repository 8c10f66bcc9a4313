"""A process whose work stands still ends, so that whoever watches it starts a new one and its slice is taken over."""

from __future__ import annotations

import faulthandler
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Watchdog:
    """One a process at a time. After ``seconds`` without progress it writes where every thread stands to standard error and
    ends the process at once, even where the interpreter itself is held up: the timer is faulthandler's, in C."""

    seconds: float
    _watching: bool = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """The work within must make progress, or be over."""
        self._watching = True
        self.progress()
        try:
            yield
        finally:
            self._watching = False
            faulthandler.cancel_dump_traceback_later()

    def progress(self) -> None:
        """The work goes on: it has all of the seconds again. Nothing where nobody is watched."""
        if self._watching:
            # The stream that the process was started with: Celery puts one without a file descriptor in its place.
            faulthandler.dump_traceback_later(self.seconds, exit=True, file=sys.__stderr__ or sys.stderr)
