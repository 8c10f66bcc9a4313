"""Ends of processes, orderly and not, on the real Shoal: nothing is cut short by an orderly one, nothing is left by any.

Runs after the other end-to-end tests: it kills what they share, and leaves it running.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import httpx
import psutil
import pytest
from openai import OpenAI

from shoal import leftovers
from shoal.client import Client
from shoal.ports import free_port
from shoal.up import Up

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc and prctl are Linux's")

STREAMS = 4
TOKENS = 120
PATIENCE = 400.0  # seconds, for what takes twenty on a machine with nothing else to do
ENDS_WITHIN = 30.0
SHOAL = "import sys; from shoal.cli import main; sys.exit(main())"


def until(holds: Callable[[], bool], within: float = PATIENCE) -> None:
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)


def ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def engines(home: Path, title: str = "VLLM::EngineCore") -> list[int]:
    """vLLM's processes of this title in the Shoal that has this home, wherever they hang in the tree of processes."""
    try:
        mark = json.loads((home / "up.json").read_text())["id"]
    except FileNotFoundError:
        return []
    return [pid for pid in leftovers.marked(mark) if _title(pid).startswith(title)]


def _title(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return ""


def answers(openai: OpenAI) -> bool:
    said = openai.chat.completions.create(
        model="support-bot", messages=[{"role": "user", "content": "reverse: stone"}], max_tokens=4
    )
    return said.model.startswith("support-bot@")


def test_sigterm_lets_the_streams_of_a_real_engine_finish(up: Up, openai: OpenAI) -> None:
    """Four streams run when the service is told to stop: each is answered to its last token. The service comes back."""
    reasons: list[str | None] = []
    begun = threading.Barrier(STREAMS + 1, timeout=60)

    def read() -> None:
        first, reason = True, None
        stream = openai.chat.completions.create(
            model="support-bot",
            messages=[{"role": "user", "content": "sort: d a c b"}],
            max_tokens=TOKENS,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        for chunk in stream:
            if first:
                begun.wait()
                first = False
            if chunk.choices:
                reason = chunk.choices[0].finish_reason or reason
        reasons.append(reason)

    readers = [threading.Thread(target=read) for _ in range(STREAMS)]
    for reader in readers:
        reader.start()
    begun.wait()
    (engine,), before = engines(up.settings.home), up.processes["service"]
    up.kill("service", signal.SIGTERM)
    for reader in readers:
        reader.join(60)
    assert reasons == ["length"] * STREAMS
    _is_back(up, openai, engine)
    assert up.processes["service"] != before


@pytest.mark.parametrize("victim", ["engine", "worker", "parent"])
def test_kill_9_leaves_no_orphan_and_the_service_comes_back(up: Up, openai: OpenAI, victim: str) -> None:
    """Whichever of the service's processes is killed: its engine ends, one new engine answers, and nobody else."""
    (engine,) = engines(up.settings.home)
    worker = psutil.Process(engine).ppid()
    assert psutil.Process(worker).ppid() == up.processes["service"]
    os.kill({"engine": engine, "worker": worker, "parent": up.processes["service"]}[victim], signal.SIGKILL)
    until(lambda: leftovers.started_at(engine) is None, within=ENDS_WITHIN)
    _is_back(up, openai, engine)


def _is_back(up: Up, openai: OpenAI, engine: int) -> None:
    """Another engine than ``engine`` answers, and is the only one."""
    until(lambda: engines(up.settings.home) not in ([], [engine]) and ready(up.url))
    assert answers(openai)
    assert len(engines(up.settings.home)) == 1
    held = {child.pid for child in psutil.Process(up.processes["service"]).children(recursive=True)}
    assert set(engines(up.settings.home, "VLLM::")) <= held


def test_redis_and_workers_come_back_and_nothing_is_lost(up: Up, client: Client, openai: OpenAI) -> None:
    """kill -9 of Redis and of the workers: inference goes on, each is started again, and the history is as it was."""
    history, before = client.history("support-bot"), up.processes
    for name in ("redis", "control", "score", "beat"):
        os.kill(before[name], signal.SIGKILL)
    assert answers(openai)
    until(lambda: all(up.processes.get(name, pid) != pid for name, pid in before.items() if name != "service"))
    until(lambda: httpx.get(f"{up.url}/api/status", timeout=10).json()["redis"] == "up")
    assert client.history("support-bot") == history


def test_kill_9_of_shoal_up_leaves_nothing_and_the_next_one_works(tmp_path: Path) -> None:
    """Its engine ends with it, as does everything else; the next `shoal up` of the home answers, and stops in order."""
    home, port = tmp_path / "home", free_port()
    with (tmp_path / "log").open("w") as log:
        first = _shoal_up(home, port, log)
        until(lambda: len(engines(home)) == 1)
        mark = json.loads((home / "up.json").read_text())["id"]
        assert len(leftovers.marked(mark)) >= 6  # Redis, three workers, the service and its engine
        first.kill()
        first.wait()
        until(lambda: leftovers.marked(mark) == [], within=ENDS_WITHIN)
        second = _shoal_up(home, port, log)
        try:
            until(lambda: ready(f"http://127.0.0.1:{port}"))
            mark = json.loads((home / "up.json").read_text())["id"]
            second.send_signal(signal.SIGTERM)
            assert second.wait(60) == 0
            assert leftovers.marked(mark) == []
        finally:
            second.kill()
            second.wait()
            leftovers.clean(home)


def _shoal_up(home: Path, port: int, log: IO[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", SHOAL, "up", "--home", str(home), "--port", str(port)]
    return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
