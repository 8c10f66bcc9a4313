"""What was acknowledged is there: after kill -9 of the very Redis that `shoal up` starts, and over the spool."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from registry.errors import RegistryDown
from registry.records import Feedback, now
from registry.registry import Registry
from registry.settings import RegistrySettings
from shoal.errors import UpError
from shoal.redis_server import RedisServer, answers, warnings
from tests.peft_folders import write_adapter
from tests.stub_service import StubService, running

CLIENTS = 8
JUDGED = {"adapter": "bot", "version": 1, "prompt": "q", "stars": 3, "rater": "ann"}


@pytest.fixture
def configured(tmp_path: Path) -> RedisServer:
    try:
        return RedisServer.configured(tmp_path / "home")
    except UpError as missing:
        pytest.skip(str(missing))


@contextmanager
def started(server: RedisServer) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(server.spec.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 20
        while not answers(server.url):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        try:
            yield process
        finally:
            process.kill()


def test_what_redis_answered_outlives_its_kill(configured: RedisServer, tmp_path: Path) -> None:
    """Eight clients write feedback as fast as they can; the server is killed with all of them in the middle, started again,
    and has every record that it answered, in the log and in the figures, once."""
    settings = RegistrySettings(
        redis_url=configured.url, artifacts_url=str(tmp_path / "a"), cache_dir=str(tmp_path / "c")
    )
    acknowledged: list[set[str]] = [set() for _ in range(CLIENTS)]

    def write(client: int) -> None:
        registry = Registry.open(settings)
        try:
            for number in range(10**6):
                ids = [f"f-{client}-{number}-{one}" for one in range(5)]
                said = [
                    Feedback(id=name, adapter="bot", version=1, prompt="q" * 2000, answer=name, rating=1.0, at=now())
                    for name in ids
                ]
                registry.feedback.add_many(said)
                acknowledged[client].update(ids)
        except RegistryDown:
            return
        finally:
            registry.close()

    writers = [threading.Thread(target=write, args=(client,)) for client in range(CLIENTS)]
    with started(configured) as process:
        assert warnings(configured.url) == []
        for writer in writers:
            writer.start()
        while sum(map(len, acknowledged)) < 2000:
            time.sleep(0.01)
        process.kill()
        for writer in writers:
            writer.join()
    told = set().union(*acknowledged)
    with started(configured):
        registry = Registry.open(settings)
        kept = [feedback.id for feedback in registry.feedback.all("bot")]
        assert told <= set(kept)
        assert len(kept) == len(set(kept)) == registry.figures.read("bot")[1]["ratings"]
        registry.close()


class Clients:
    """Four clients that post without a pause, two of them batches; what was answered with 2xx is in ``acknowledged``."""

    def __init__(self, url: str) -> None:
        self.acknowledged: list[set[str]] = [set() for _ in range(4)]
        self.seen: set[int] = set()
        self._url, self._stop = url, threading.Event()
        self._threads = [threading.Thread(target=self._post, args=(number,), daemon=True) for number in range(4)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def go_on(self) -> None:
        """Every client is answered some more."""
        before, deadline = [len(some) for some in self.acknowledged], time.monotonic() + 60
        while any(len(some) < held + 3 for some, held in zip(self.acknowledged, before, strict=True)):
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def _post(self, client: int) -> None:
        number = 0
        with httpx.Client(timeout=30) as http:
            while not self._stop.is_set():
                ids = [f"f-{client}-{number}-{one}" for one in range(1 if client % 2 else 20)]
                items = [{**JUDGED, "id": name, "answer": name} for name in ids]
                body = items[0] if len(ids) == 1 else {"items": items}
                answer = http.post(f"{self._url}/api/feedback", json=body)
                self.seen.add(answer.status_code)
                if answer.is_success:
                    self.acknowledged[client].update(ids)
                    number += 1


def test_clients_that_go_on_through_an_outage_lose_nothing(configured: RedisServer, tmp_path: Path) -> None:
    """A really running service: singles and batches from several clients before, during and after a kill of Redis; each that
    was answered with 2xx is in the log once, and counted once, when Redis is back."""
    settings = RegistrySettings(
        redis_url=configured.url, artifacts_url=str(tmp_path / "a"), cache_dir=str(tmp_path / "c")
    )
    service = StubService(settings, tmp_path / "service")
    with started(configured) as process:
        registry = Registry.open(settings)
        registry.register("bot", write_adapter(tmp_path / "bot", seed=1), by="test")
        registry.promote("bot", 1, by="test")
        registry.close()
        with running(service), ExitStack() as again:
            with Clients(service.url) as clients:
                clients.go_on()
                process.kill()
                process.wait()
                clients.go_on()  # on disk, meanwhile
                assert 202 in clients.seen
                again.enter_context(started(configured))
                clients.go_on()
            all_there(service.url, settings, set().union(*clients.acknowledged))


def all_there(url: str, settings: RegistrySettings, acknowledged: set[str]) -> None:
    """When nothing waits on disk any more: everything is in the log, and in the figures, once."""
    deadline = time.monotonic() + 60
    while httpx.get(f"{url}/api/status", timeout=30).json()["feedback_spooled"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    registry = Registry.open(settings)
    kept = [feedback.id for feedback in registry.feedback.all("bot")]
    assert set(kept) == acknowledged
    assert len(kept) == len(set(kept)) == registry.figures.read("bot")[1]["ratings"]
    registry.close()
