"""A service process that is told to stop, and one that is killed: real ``bentoml serve``, the stub engine, real Redis."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from registry.records import Run, RunSpec, now
from registry.registry import Registry
from registry.settings import RegistrySettings
from tests.peft_folders import write_adapter
from tests.stub_service import StubService

LONG = {"model": "bot", "prompt": "word " * 40, "max_tokens": 60}  # 41 words, at the pace below two seconds
PACE = 0.05


@pytest.fixture
def slow(registry: Registry, registry_settings: RegistrySettings, tmp_path: Path) -> Iterator[StubService]:
    for number in range(2):
        registry.register("bot", write_adapter(tmp_path / str(number), seed=number), by="test")
    registry.promote("bot", 1, by="test")
    service = StubService(registry_settings, tmp_path / "service", pace=PACE, SHOAL_STOP_NOTICE="1")
    yield service
    service.stop()


def until(holds: Callable[[], bool], within: float = 20.0) -> None:
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def in_background(ask: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=ask)
    thread.start()
    return thread


def leases(service: StubService) -> dict[str, int]:
    status = httpx.get(f"{service.url}/api/status", timeout=10).json()
    held: dict[str, int] = status["leases"]
    return held


def test_sigterm_lets_answers_finish_and_refuses_new_ones(slow: StubService, registry: Registry) -> None:
    """A stream and a whole answer that run at SIGTERM end in full; meanwhile /readyz and new requests get 503, the latter
    with Retry-After, and no promotion waits for this replica any more; then the process ends by itself."""
    slow.start()
    slow.wait_ready()
    told: dict[str, str] = {}

    def whole() -> None:
        answer = httpx.post(f"{slow.url}/v1/completions", json=LONG, timeout=60)
        told["whole"] = answer.json()["choices"][0]["finish_reason"]

    def streamed() -> None:
        with httpx.stream("POST", f"{slow.url}/v1/completions", json=LONG | {"stream": True}, timeout=60) as answer:
            told["stream"] = "".join(answer.iter_text())

    running = [in_background(whole), in_background(streamed)]
    until(lambda: sum(leases(slow).values()) == 2)
    slow.signal(signal.SIGTERM)
    until(lambda: httpx.get(f"{slow.url}/readyz", timeout=5).status_code == 503)
    refused = httpx.post(f"{slow.url}/v1/completions", json=LONG, timeout=5)
    assert refused.status_code == 503, refused.text
    assert refused.headers["retry-after"]
    assert refused.json()["error"]["code"] == "stopping"
    until(lambda: registry.replicas.live() == [])
    for thread in running:
        thread.join(60)
    assert told["whole"] == "stop"
    assert told["stream"].endswith("data: [DONE]\n\n")
    assert told["stream"].count("word ") == 40
    assert slow.process is not None
    assert slow.process.wait(20) == 0


def test_who_watches_a_run_does_not_hold_back_a_stop(slow: StubService, registry: Registry) -> None:
    """The run goes on for longer than anybody would wait: its stream ends in order, and so does the process."""
    registry.runs.create(Run(id="run-1", spec=RunSpec(adapter="bot"), created_at=now(), created_by="test"))
    slow.start()
    slow.wait_ready()
    with httpx.stream("GET", f"{slow.url}/api/runs/run-1/events", timeout=20) as stream:
        told = stream.iter_text()
        assert "event: run" in next(told)
        slow.signal(signal.SIGTERM)
        assert slow.process is not None
        assert slow.process.wait(20) == 0
        assert "event: run" not in "".join(told)


def test_clients_that_leave_give_their_leases_back(slow: StubService) -> None:
    """240 connections are cut: before the first token, in the middle of a stream, and while a whole answer is made. No lease
    is left, and the version still answers. What then runs longer than --timeout-graceful-shutdown is broken off."""
    slow.start("--timeout-graceful-shutdown", "1")
    slow.wait_ready()
    url = f"{slow.url}/v1/completions"

    def leave(how: int) -> None:
        link = http.client.HTTPConnection("127.0.0.1", slow.port, timeout=20)
        link.request(
            "POST", "/v1/completions", json.dumps(LONG | {"stream": how > 0}), {"content-type": "application/json"}
        )
        if how == 1:  # in the middle of a stream
            link.getresponse().readline()
        else:  # before the first byte, of a whole answer and of a stream
            time.sleep(0.05)
        link.close()

    crowd = [threading.Thread(target=leave, args=(number % 3,)) for number in range(240)]
    for start in range(0, len(crowd), 40):
        for thread in crowd[start : start + 40]:
            thread.start()
        for thread in crowd[start : start + 40]:
            thread.join()
    until(lambda: leases(slow) == {})
    answer = httpx.post(url, json=LONG | {"max_tokens": 2}, timeout=20)
    assert answer.json()["model"] == "bot@1"
    hour = {"model": "bot", "prompt": "word " * 200, "max_tokens": 200, "stream": True}
    told: list[str] = []
    with httpx.stream("POST", url, json=hour, timeout=60) as stream:
        slow.signal(signal.SIGTERM)
        with contextlib.suppress(httpx.RemoteProtocolError):
            told.extend(stream.iter_text())
    assert "".join(told).count("word ") < 200
    assert slow.process is not None
    assert slow.process.wait(20) == 0


def test_a_killed_worker_is_started_again_and_a_killed_parent_leaves_nobody(slow: StubService) -> None:
    """kill -9 of the process that answers: BentoML starts another. kill -9 of BentoML's parent: nobody goes on answering."""
    slow.start()
    slow.wait_ready()
    (before,) = slow.workers()
    os.kill(before, signal.SIGKILL)
    until(lambda: [*slow.workers()] not in ([before], []), within=60)
    slow.wait_ready()
    (after,) = slow.workers()
    slow.signal(signal.SIGKILL)
    until(lambda: not Path(f"/proc/{after}").exists() or _is_zombie(after))
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{slow.url}/readyz", timeout=2)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
