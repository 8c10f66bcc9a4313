"""One process that `shoal up` started: its output, its end, its restart."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO

from shoal import leftovers
from shoal.processes import MARK, ProcessSpec

LAST_LINES = 20
_LAUNCH = str(Path(__file__).with_name("launch.py"))
_CONTROL_CODES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f]")


class Child:
    """A process in a session of its own, so that a Ctrl-C in the terminal reaches `shoal up` alone.

    ``on_line(name, line)`` is called from a reader thread, without control codes. Start it from a thread that lives as
    long as the process should: the kernel counts that thread's end as the parent's.
    """

    def __init__(
        self,
        spec: ProcessSpec,
        *,
        mark: str,
        environment: dict[str, str],
        folder: Path,
        on_line: Callable[[str, str], None],
    ) -> None:
        self.spec = spec
        self.mark = f"{mark}:{spec.name}:"
        self.last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self.ready = False
        self.excused = False  # its end was asked for (``Up.kill``), and is no sign of trouble
        self.quick_deaths = 0
        self.restart_at: float | None = None
        self._environment = environment | {MARK: self.mark}
        self._folder = folder
        self._on_line = on_line
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._started = 0.0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def uptime(self) -> float:
        return time.monotonic() - self._started

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._process.poll() if self._process else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        self.ready, self.restart_at, self._started = False, None, time.monotonic()
        self.last_lines.clear()
        launch = (sys.executable, "-I", "-S", _LAUNCH, str(os.getpid()), str(int(self.spec.orphan_signal)))
        self._process = subprocess.Popen(
            [*launch, *self.spec.command],
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        name = f"{self.spec.name} output"
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), name=name, daemon=True)
        self._reader.start()

    def signal(self, number: int) -> None:
        """Signal the process alone, not its children: an orderly stop is its own to arrange."""
        if self._process and self.running:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def end(self) -> None:
        """Kill what is left of it and of its children. Repeatable."""
        if self._process:
            leftovers.signal_group(self._process.pid, signal.SIGKILL, leads=self.running)
            leftovers.sweep(self.mark)
            self._process.wait()
        if self._reader:
            self._reader.join(timeout=2.0)

    def told(self) -> str:
        """How it ended, for a person."""
        code = self.exit_code
        if code is None:
            return "still running"
        if code >= 0:
            return f"exit code {code}"
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
        return f"killed by signal {-code}"

    def _read(self, output: IO[bytes]) -> None:
        with output:
            for raw in output:
                # A progress bar rewrites its line: what it shows last is what stays.
                text = raw.decode("utf-8", "replace").rstrip("\r\n").rpartition("\r")[2]
                line = _CONTROL_CODES.sub("", text).rstrip()
                if line:
                    self.last_lines.append(line)
                    self._on_line(self.spec.name, line)
