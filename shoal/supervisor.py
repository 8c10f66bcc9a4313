"""The thread that starts the processes, watches them, starts them again, and stops them in order.

One thread does all of it, because the kernel ends a process with the *thread* that started it (``shoal.launch``), and
because then no state is shared but a few events.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from shoal import leftovers
from shoal.child import Child
from shoal.processes import ProcessSpec

POLL_SECONDS = 0.1
PROBE_SECONDS = 0.5
QUICK_SECONDS = 20.0  # a process that ended sooner (a probed one: before it was ready) died quickly
QUICK_DEATHS = 3  # in a row: it will not get better
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
LAYER_SECONDS = 60.0  # how long the first layer may take until it answers


class Supervisor(threading.Thread):
    """Runs ``specs`` until it is asked to stop or one of them cannot be kept running; then ``failure`` says why.

    ``settled()``: whether the first layer (Redis) answers, so that the others may start. ``probe()``: whether the
    service is ready. ``say(name, line)`` is called from several threads.
    """

    def __init__(
        self,
        specs: list[ProcessSpec],
        *,
        identity: str,
        environment: dict[str, str],
        home: Path,
        settled: Callable[[], bool],
        probe: Callable[[], bool],
        say: Callable[[str, str], None],
        record: dict[str, object],
    ) -> None:
        super().__init__(name="shoal-up", daemon=True)
        self.started, self.ready, self.ended = threading.Event(), threading.Event(), threading.Event()
        self.failure: str | None = None
        self.last_lines: list[str] = []
        self._stop_asked, self._kill_asked = threading.Event(), threading.Event()
        self._settled, self._probe, self._say, self._home, self._record = settled, probe, say, home, record
        self.children = {
            spec.name: Child(spec, mark=identity, environment=environment, folder=home, on_line=say) for spec in specs
        }

    def ask_stop(self, *, kill: bool = False) -> None:
        """Stop everything in order, or at once. Returns immediately; ``ended`` is set when nothing runs any more."""
        if kill:
            self._kill_asked.set()
        self._stop_asked.set()

    @property
    def stopping(self) -> bool:
        return self._stop_asked.is_set() or self.failure is not None

    def run(self) -> None:
        try:
            if self._start_all():
                self.started.set()
                self._watch()
        except BaseException as error:
            # Whatever it is, the processes must not be left without their supervisor.
            self._fail(f"{type(error).__name__}: {error}")
            raise
        finally:
            try:
                self._stop_all()
            finally:
                for child in self.children.values():
                    child.end()
                leftovers.forget(self._home)
                self.ended.set()
                self.started.set()

    def _start_all(self) -> bool:
        lowest = min((child.spec.layer for child in self.children.values()), default=0)
        first = [child for child in self.children.values() if child.spec.layer == lowest]
        for child in first:
            self._start(child)
        until = time.monotonic() + LAYER_SECONDS
        asked = 0
        while not self._settled():
            asked += 1
            for child in first:
                if not child.running:
                    self._fail(f"{child.spec.name} did not start ({child.told()}).", child)
                    return False
            # Both: a machine that slept, or had no time for us, has not been asking for all of it.
            if time.monotonic() > until and asked > LAYER_SECONDS:
                self._fail(f"{first[0].spec.name} does not answer after {LAYER_SECONDS:.0f} seconds.", first[0])
                return False
            if self._stop_asked.wait(POLL_SECONDS):
                return False
        for child in self.children.values():
            if child.spec.layer > lowest:
                self._start(child)
        return True

    def _start(self, child: Child) -> None:
        child.start()
        processes = {
            name: {"pid": one.pid, "start": leftovers.started_at(one.pid)}
            for name, one in self.children.items()
            if one.pid is not None
        }
        leftovers.write(self._home, {**self._record, "processes": processes})

    def _watch(self) -> None:
        next_probe = 0.0
        while not self.stopping:
            for child in self.children.values():
                if child.restart_at is not None:
                    if time.monotonic() >= child.restart_at:
                        self._start(child)
                elif not child.running:
                    self._died(child)
            if time.monotonic() >= next_probe:
                self._look(child for child in self.children.values() if child.spec.probed)
                next_probe = time.monotonic() + PROBE_SECONDS
            self._stop_asked.wait(POLL_SECONDS)

    def _look(self, probed: Iterator[Child]) -> None:
        for child in probed:
            if child.running and not child.ready and self._probe():
                child.ready, child.quick_deaths = True, 0
                if self.ready.is_set():
                    self._say("shoal", f"{child.spec.name} is ready again")
                self.ready.set()

    def _died(self, child: Child) -> None:
        told, name = child.told(), child.spec.name
        child.end()  # its children first: a second engine must not start beside the first one's
        quick = not child.ready if child.spec.probed else child.uptime < QUICK_SECONDS
        if child.excused or not quick:
            child.quick_deaths = 0
        else:
            child.quick_deaths += 1
        child.excused = child.ready = False
        if child.quick_deaths >= QUICK_DEATHS:
            self._fail(f"{name} ended {QUICK_DEATHS} times in a row soon after its start (at last: {told}).", child)
            return
        pause = min(FIRST_PAUSE * 2 ** max(0, child.quick_deaths - 1), LONGEST_PAUSE)
        self._say("shoal", f"{name} ended ({told}); starting it again in {pause:g} s")
        child.restart_at = time.monotonic() + pause

    def _fail(self, why: str, child: Child | None = None) -> None:
        if child:
            child.end()
            self.last_lines = list(child.last_lines)
        self.failure = why

    def _stop_all(self) -> None:
        """The highest layer first, so that no process loses what it still needs to end in order."""
        for layer in sorted({child.spec.layer for child in self.children.values()}, reverse=True):
            group = [child for child in self.children.values() if child.spec.layer == layer]
            for child in group:
                child.signal(signal.SIGTERM)
            asked = time.monotonic()
            for child in group:
                self._await_end(child, asked + child.spec.stop_seconds)
                child.end()

    def _await_end(self, child: Child, until: float) -> None:
        while child.running and not self._kill_asked.is_set():
            if time.monotonic() > until:
                self._say("shoal", f"{child.spec.name} does not stop; killing it")
                return
            time.sleep(POLL_SECONDS / 2)

    def kill(self, name: str, number: int) -> None:
        """Send ``number`` to one process, as an accident would; its end does not count as a quick death."""
        child = self.children[name]
        child.excused = True
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid or 0, number)
