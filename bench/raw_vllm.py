"""vLLM's own server with Shoal's engine arguments and one adapter loaded: what Shoal's service is measured against."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from registry.settings import RegistrySettings
from service.app import engine_settings
from service.engines.vllm import command_line, environment
from service.settings import ServiceSettings
from shoal import launch

SERVER = "vllm.entrypoints.launchers.api_server.entry"


class RawVllm:
    """``python -m vllm...`` on a port of its own, from ``__enter__`` until ``__exit__``. ``model`` names the adapter."""

    def __init__(self, base: Path, adapter: Path, port: int, log: Path) -> None:
        self.url, self.model = f"http://127.0.0.1:{port}", adapter.name
        settings = engine_settings(ServiceSettings(), RegistrySettings(base=str(base)))
        # A bench that is killed leaves no server behind: the kernel asks it to end with this process.
        self._command = [sys.executable, launch.__file__, str(os.getpid()), str(int(signal.SIGTERM))]
        self._command += [sys.executable, "-m", SERVER, *command_line(settings)]
        self._command += ["--host", "127.0.0.1", "--port", str(port), "--disable-uvicorn-access-log"]
        self._command += ["--lora-modules", f"{adapter.name}={adapter}"]
        self._environment = {**os.environ, **environment()}
        self._log = log

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )
        until = time.monotonic() + 600
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > until:
                self.__exit__(None, None, None)
                raise SystemExit(f"vLLM did not start:\n{self._log.read_text()[-3000:]}")
            time.sleep(0.5)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=5).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False
