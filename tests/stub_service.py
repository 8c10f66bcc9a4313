"""A real ``bentoml serve`` of Shoal's service on the stub engine, in a process of its own, for tests of many replicas."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from registry.settings import RegistrySettings
from shoal.ports import free_port

SERVES = b"_bentoml_impl.worker.service"
ROOT = Path(__file__).parents[1]


class StubService:
    """One service process; ``url`` answers once ``wait_ready`` has returned."""

    def __init__(self, registry: RegistrySettings, home: Path, *, pace: float = 0.0, **environment: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        home.mkdir(parents=True, exist_ok=True)
        self.log = home / "service.log"
        self._home = home
        self._environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "BENTOML_HOME": str(home / "bentoml"),
            "BENTOML_DO_NOT_TRACK": "True",
            "SHOAL_REDIS_URL": registry.redis_url,
            "SHOAL_NAMESPACE": registry.namespace,
            "SHOAL_ARTIFACTS_URL": registry.artifacts_url,
            "SHOAL_CACHE_DIR": str(home / "cache"),
            "SHOAL_HOME": str(home),
            "SHOAL_BASE": "stub",
            "SHOAL_ENGINE": "stub",
            "SHOAL_ENGINE_ARGS": f"--seconds-per-token {pace}",
            "SHOAL_PORT": str(self.port),
            **environment,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        command = [sys.executable, "-m", "bentoml", "serve", "service.app:ShoalService"]
        command += ["--host", "127.0.0.1", "--port", str(self.port), *options]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self._home, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )

    def wait_ready(self, within: float = 120.0) -> None:
        deadline = time.monotonic() + within
        while not self.ready():
            assert self.process is not None
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(0.1)

    def ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def signal(self, number: int = signal.SIGTERM) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def workers(self) -> list[int]:
        """The ids of the processes that answer: the children of BentoML's parent that serve."""
        assert self.process is not None
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        children = [child for task in tasks for child in task.read_text().split()]
        return [int(child) for child in children if SERVES in Path(f"/proc/{child}/cmdline").read_bytes()]

    def stop(self) -> None:
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait(10)
        self.process = None


@contextmanager
def running(*services: StubService, options: tuple[str, ...] = ()) -> Iterator[None]:
    """Start them together, wait until all are ready, stop them."""
    try:
        for service in services:
            service.start(*options)
        for service in services:
            service.wait_ready()
        yield
    finally:
        for service in services:
            service.stop()
