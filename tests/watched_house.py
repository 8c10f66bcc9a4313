"""A whole Shoal that has been used: what there is to watch. A real service on the stub engine, real workers, one run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from registry.adaptation import begin
from registry.records import Run, RunSpec
from registry.registry import Registry
from registry.settings import RegistrySettings
from service.bell import Bell
from tests import redis_server, stub_service
from tests.corrected import BOT, PACK, correct
from tests.worker_process import ended, worker

KEY = "the-key-of-this-house"


@dataclass
class House:
    """What was done in it: three versions, a champion, a run, an answer of each kind, a canary."""

    registry: Registry
    redis: redis_server.RedisServer
    service: stub_service.StubService
    run: Run
    logs: list[Path]
    answers: list[httpx.Response] = field(default_factory=list)

    def ask(self, path: str, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        """POST to the service, with the admin key."""
        given = {"authorization": f"Bearer {KEY}"} | (headers or {})
        return httpx.post(f"{self.service.url}{path}", json=body, headers=given, timeout=30)

    def chat(self, said: str, headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
        messages = [{"role": "user", "content": said}]
        return self.ask("/v1/chat/completions", headers, **{"model": BOT, "messages": messages, **more})

    def metrics(self) -> str:
        headers = {"authorization": f"Bearer {KEY}"}
        answer = httpx.get(f"{self.service.url}/metrics", headers=headers, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.text


@contextmanager
def house(executable: str, folder: Path, **environment: str) -> Iterator[House]:
    """Started, with one run gone through; ``environment`` is for every process."""
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server.running(executable, folder, append_only=True))
        settings = RegistrySettings(
            redis_url=redis.url,
            namespace="house",
            artifacts_url=str(folder / "artifacts"),
            cache_dir=str(folder / "cache"),
            base=str(PACK.base),
        )
        registry = Registry.open(settings)
        stack.callback(registry.close)
        for name in ("dedup", "shift", "swap"):  # the champion knows nothing of what users ask
            registry.register(BOT, PACK.experts[name], by="test", label=name)
        registry.promote(BOT, 1, by="test")
        service = stub_service.StubService(
            settings, folder / "service", SHOAL_API_KEY=KEY, SHOAL_BASE=str(PACK.base), **environment
        )
        stack.enter_context(stub_service.running(service))
        logs = [
            stack.enter_context(worker(name, folder / name, settings, **environment))
            for name in ("control", "score", "beat")
        ]
        correct(registry, 160)
        run = begin(registry, RunSpec(adapter=BOT, seed=1, max_generations=2), by="test")
        assert Bell(settings).advance(run.id)
        yield House(registry, redis, service, ended(registry, run, logs), [service.log, *logs])
