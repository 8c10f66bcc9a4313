"""Redis is gone, or hangs, under a really running service: who reads goes on, who writes is told, nothing is lost."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import signal
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry.registry import Registry
from registry.settings import RegistrySettings
from service.app import make_app
from service.replica import BEAT_TTL
from starter.pack import load_pack
from tests.redis_server import RedisServer
from tests.served_app import serving
from tests.stub_service import StubService

BOT = "bot"
PACK = load_pack()
JUDGED = {"adapter": BOT, "version": 1, "prompt": "p", "answer": "a", "rating": "up"}
BODIES: dict[str, dict[str, Any]] = {
    "POST /api/adapters": {"name": "new"},
    "POST /api/adapters/{name}/versions": {},  # an upload, below
    "POST /api/adapters/{name}/versions/import": {},  # an address, below
    "POST /api/adapters/{name}/promote": {"version": 2},
    "POST /api/adapters/{name}/rollback": {},
    "POST /api/adapters/{name}/canary": {"version": 2, "share": 0.1},
    "POST /api/adapters/{name}/pin": {"version": 2},
    "POST /api/adapters/{name}/unpin": {"version": 2},
    "POST /api/adapters/{name}/retire": {"version": 2},
    "PUT /api/adapters/{name}/policy": {"policy": {}},
    "PUT /api/adapters/{name}/guards/{suite}": {
        "suite": {"kind": "refusal", "items": [{"prompt": "p", "refuse": True}]}
    },
    "DELETE /api/adapters/{name}/guards/{suite}": {},
    "POST /api/runs": {"adapter": BOT},
    "POST /api/runs/{run_id}/cancel": {},
    "POST /api/keys": {"name": "ci", "scopes": ["infer"]},
    "DELETE /api/keys/{key_id}": {},
    "POST /api/artifacts/check": {},
    "POST /api/artifacts/gc": {"dry_run": True},
    "POST /api/status/accept-registry": {"reason": "test"},
    "POST /api/feedback": JUDGED,
}


def writing_routes() -> list[str]:
    """Those of the app itself: a route that is added is walked, or this test fails for want of a body."""
    paths = make_app().openapi()["paths"]
    return [
        f"{method.upper()} {path}"
        for path, methods in paths.items()
        for method in methods
        if method != "get" and path.startswith("/api/")
    ]


def archive(folder: Path) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for file in folder.iterdir():
            tar.add(file, file.name)
    return content.getvalue()


def ask(service: StubService, route: str, expert: Path) -> httpx.Response:
    method, _, path = route.partition(" ")
    url = service.url + path.format(name=BOT, run_id="run1", key_id="0" * 12, suite="manners")
    if path.endswith("/versions"):
        return httpx.post(url, files={"archive": ("expert.tar.gz", archive(expert))}, timeout=30)
    body = {"source": f"file://{expert}"} if path.endswith("/import") else BODIES[route]
    return httpx.request(method, url, json=body, timeout=30)


def goes_on(service: StubService) -> None:
    """Answers, streamed and not, and both probes."""
    body = {"model": BOT, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
    answer = httpx.post(f"{service.url}/v1/chat/completions", json=body, timeout=30)
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == f"{BOT}@1"
    streamed = httpx.post(f"{service.url}/v1/chat/completions", json=body | {"stream": True}, timeout=30)
    assert streamed.text.rstrip().endswith("[DONE]")
    for probe in ("livez", "readyz"):
        assert httpx.get(f"{service.url}/{probe}", timeout=30).status_code == 200, probe


@pytest.mark.parametrize("hangs", [False, True], ids=["gone", "hangs"])
def test_without_redis_answers_go_on_writes_are_told_and_feedback_outlives_a_kill(
    redis_process: RedisServer, registry_settings: RegistrySettings, tmp_path: Path, hangs: bool
) -> None:
    """Every writing route: 503, Retry-After, our error body; feedback 202. Then kill -9 of the service, a start of it while
    Redis is still away (it falls back to its file), and each feedback is in Redis once after that is back."""
    settings = registry_settings.model_copy(update={"redis_url": redis_process.url})
    registry = Registry.open(settings)
    for name in ("shift", "sort"):
        registry.register(BOT, PACK.experts[name], by="test")
    registry.promote(BOT, 1, by="test")
    service = StubService(
        settings, tmp_path / "home", SHOAL_BASE=str(PACK.base), SHOAL_IMPORT_FROM=f"file://{PACK.base.parent}/"
    )
    try:
        service.start()
        service.wait_ready()
        until(lambda: bool(list((tmp_path / "home").glob("*rollouts*"))))
        (redis_process.hang if hangs else redis_process.kill)()
        goes_on(service)
        for route in writing_routes():
            answer = ask(service, route, PACK.experts["swap"])
            if route == "POST /api/feedback":
                assert (answer.status_code, answer.json()["spooled"]) == (202, 1), answer.text
                continue
            assert answer.status_code == 503, f"{route}: {answer.status_code} {answer.text}"
            assert int(answer.headers["retry-after"]) > 0, route
            assert set(answer.json()["error"]) == {"code", "message", "details"}, route
            assert answer.json()["error"]["code"] == "registry_down", route
        items = [JUDGED | {"id": f"f{number}"} for number in range(20)]
        assert httpx.post(f"{service.url}/api/feedback", json={"items": items}, timeout=30).status_code == 202
        goes_on(service)

        assert service.process is not None
        os.killpg(service.process.pid, signal.SIGKILL)
        service.process.wait(10)
        service.start()
        service.wait_ready()
        goes_on(service)
        (redis_process.go_on if hangs else redis_process.start)()
        until(lambda: back(registry) and registry.feedback.count(BOT) == 21)
        until(lambda: httpx.get(f"{service.url}/api/status", timeout=30).json()["feedback_spooled"] == 0)
        assert len(registry.feedback.all(BOT)) == 21
        assert registry.figures.read(BOT)[1]["ratings"] == 21  # none was counted twice on the way
    finally:
        service.stop()
        registry.close()


async def test_a_move_right_after_an_outage_asks_the_replica(
    redis_process: RedisServer, registry_settings: RegistrySettings, tmp_path: Path
) -> None:
    """Redis was away for longer than a heartbeat lives: a version that cannot be loaded is refused as before, not promoted
    because nobody has said since that it is alive."""
    settings = registry_settings.model_copy(update={"redis_url": redis_process.url})
    registry = Registry.open(settings)
    for name in ("shift", "sort"):
        version, _ = registry.register(BOT, PACK.experts[name], by="test")
    registry.promote(BOT, 1, by="test")
    async with serving(settings, tmp_path / "home") as shoal:
        shutil.rmtree(str(registry.artifacts.place.path(version.digest)))
        redis_process.kill()
        await asyncio.sleep(BEAT_TTL + 1)
        await asyncio.to_thread(redis_process.start)  # nothing of the service is held up until it answers
        answer = await shoal.post(f"/api/adapters/{BOT}/promote", json={"version": 2}, timeout=30)
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "not_ready"), answer.text
    assert registry.rollout(BOT).champion == 1
    registry.close()


def back(registry: Registry) -> bool:
    try:
        registry.ping()
    except Exception:
        return False
    return True


def until(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)
