"""A stage for trials: Shoal's real service in this process on a real Redis, versions that behave as told, and users who rate.

Requests pass the service's own gate, routes, routing and recorder; ratings its feedback API; moves the registry and the tick
of the control worker. The engine is the stub, but for how a version behaves: what it fails at, how long it takes, whether it
keeps to the format that was asked for. A user wants JSON: an answer that is none is rated 0; any other up or down by lot, up
with the version's true rate. Everybody rates everything. Nobody asks twice, so ratings are independent of each other.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from registry.canary_policy import CanaryPolicy
from registry.policy import Policy
from registry.records import Event, Run, RunSpec, now
from registry.registry import Registry
from registry.settings import RegistrySettings
from service.app import Service, make_app
from service.engine import Answer, EngineError, EngineSettings
from service.engines.stub import StubEngine
from service.gate import Gate
from service.settings import ServiceSettings
from swarm_worker.canary import tend_trials
from swarm_worker.run import RunDriver
from swarm_worker.settings import WorkerSettings

LOOK = 40
"""Answers between two ticks."""
AT_ONCE = 8
WORDS = [
    f"{first}{middle}{last}" for first in "bdfgklmnprst" for middle in ("a", "ei", "o", "u") for last in "dklmnrst"
]
QUICK_WAIT = 0.004  # seconds that an answer takes


@dataclass(frozen=True, slots=True)
class Way:
    """How a version behaves. ``rate``: how often its users rate it up; ``fails``: how often it answers with an error.
    ``says``: its answer to a prompt; else the stub's. ``corrected``: who rates it down says what would have been right."""

    rate: float
    fails: float = 0.0
    seconds: float = QUICK_WAIT
    keeps_format: bool = True
    says: Callable[[str], str] | None = None
    corrected: Callable[[str], str] | None = None


class Cast(StubEngine):
    """The stub engine, whose versions behave each in its own way."""

    def __init__(self, settings: EngineSettings, ways: dict[str, Way], rng: random.Random) -> None:
        super().__init__(settings)
        self._ways, self._rng = ways, rng

    async def complete(self, body: dict[str, Any], model: str | None, request_id: str) -> Answer:
        way = self._ways[model or ""]
        await asyncio.sleep(way.seconds * self._rng.uniform(0.7, 1.3))
        if self._rng.random() < way.fails:
            raise EngineError(500, "internal_error", "out of luck")
        answer = await super().complete(body, model, request_id)
        if not isinstance(answer, dict):
            raise TypeError("users here ask for whole answers")
        said = json.dumps({"said": answer["choices"][0]["text"]})
        text = way.says(body["prompt"]) if way.says else said
        answer["choices"][0]["text"] = text if way.keeps_format else text[:-1]
        return answer


@dataclass
class Ended:
    """How a trial ended: ``promoted``, ``worse`` or ``undecided``; ``own``: answers that its version gave; ``all``: both."""

    verdict: str
    own: int
    all: int
    reason: str
    run: Run


@dataclass
class Stage:
    """One adapter, and as many trials on it as are asked for, one after the other."""

    adapter: str
    registry: Registry
    service: Service
    app: Any
    ways: dict[str, Way]
    rng: random.Random
    driver: RunDriver
    policy: CanaryPolicy
    users: int = 0
    tested: int = 0
    answers: Counter[str] = field(default_factory=Counter)

    async def trial(self, version: int, champion: Way, way: Way, *, most: int = 40_000) -> Ended:
        """Put ``version`` on trial by the end of a run, and let users ask and rate until it is decided."""
        rollout = await asyncio.to_thread(self.registry.rollout, self.adapter)
        self.ways[f"{self.adapter}@{rollout.champion}"] = champion
        self.ways[f"{self.adapter}@{version}"] = way
        run = await self.delivered(version)
        self.answers.clear()
        while run.going and self.answers.total() < most:
            await self.look()
            run = await asyncio.to_thread(self.registry.runs.get, run.id)
        event = next(e for e in await asyncio.to_thread(self.registry.history, self.adapter) if "trial" in e.details)
        return Ended(
            verdict_of(event), self.answers[f"{self.adapter}@{version}"], self.answers.total(), run.outcome, run
        )

    async def look(self) -> None:
        """Some users ask and rate; then a tick, and the replica follows what it moved."""
        await self.rated(LOOK)
        await self.service.parts.tally.flush()
        await asyncio.to_thread(tend_trials, self.registry)
        await asyncio.to_thread(self.driver.look_after)
        await self.followed()

    async def rated(self, n: int) -> None:
        """So many users ask, and rate what they are answered."""
        answered = [answer for start in range(0, n, AT_ONCE) for answer in await self._asked(min(AT_ONCE, n - start))]
        ratings = [
            {"request_id": request, "rater": request} | self._judged(version, text)
            for request, version, text in answered
            if text is not None
        ]
        if ratings:
            status, _, told = await self._call("POST", "/api/feedback", {"items": ratings})
            if status != 201:
                raise SystemExit(f"Feedback was answered {status}: {told[:300]!r}")

    async def delivered(self, version: int) -> Run:
        """A run whose find has passed the gate, moved on until it is on trial (or was refused)."""
        run = Run(
            id=f"run-bench-{self.users}-{version}",
            spec=RunSpec(adapter=self.adapter),
            status="promoting",
            version=version,
            created_at=now(),
            created_by="bench",
            rollout_revision=(await asyncio.to_thread(self.registry.rollout, self.adapter)).revision,
        )
        await asyncio.to_thread(self.registry.runs.create, run)
        return await self.moved_on(run)

    async def moved_on(self, run: Run) -> Run:
        """Until a run is on trial or has ended: replicas get ready meanwhile."""
        while run.going and run.status != "canary":
            await asyncio.to_thread(self.driver.advance, run.id)
            run = await asyncio.to_thread(self.registry.runs.get, run.id)
            await asyncio.sleep(0.01)
        await self.followed()
        return run

    async def followed(self) -> None:
        """Until the replica answers by the rollout as it is now."""
        revision = (await asyncio.to_thread(self.registry.rollout, self.adapter)).revision
        while (seen := self.service.parts.replica.rollout(self.adapter)) is None or seen.revision < revision:
            self.service.parts.replica.hint()
            await asyncio.sleep(0.01)

    async def _asked(self, n: int) -> list[tuple[str, str, str | None]]:
        """Request, version and text of so many answers; no text where it failed."""
        return list(await asyncio.gather(*(self._ask() for _ in range(n))))

    async def _ask(self) -> tuple[str, str, str | None]:
        self.users += 1
        prompt = " ".join(self.rng.choices(WORDS, k=8))
        body = {"model": self.adapter, "prompt": prompt, "user": f"user-{self.users}"}
        status, headers, answer = await self._call("POST", "/v1/completions", body)
        version = headers["x-shoal-version"]
        self.answers[version] += 1
        return headers["x-request-id"], version, json.loads(answer)["choices"][0]["text"] if status == 200 else None

    def _judged(self, version: str, text: str) -> dict[str, Any]:
        way = self.ways[version]
        try:
            json.loads(text)
        except ValueError:
            return {"rating": 0.0}
        liked = self.rng.random() < way.rate
        return {"rating": float(liked)} | ({"correction": way.corrected(text)} if way.corrected and not liked else {})

    async def _call(self, method: str, path: str, body: Any) -> tuple[int, dict[str, str], bytes]:
        """One request to the app, without a socket."""
        sent = json.dumps(body).encode()
        head = {"host": "127.0.0.1", "content-type": "application/json", "content-length": str(len(sent))}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in head.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        parts: list[dict[str, Any]] = []
        waiting = asyncio.Event()  # the client stays: a disconnect never comes

        async def receive() -> dict[str, Any]:
            if waiting.is_set():
                await asyncio.Event().wait()
            waiting.set()
            return {"type": "http.request", "body": sent, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            parts.append(message)

        await self.app(scope, receive, send)
        headers = {name.decode(): value.decode() for name, value in parts[0]["headers"]}
        return parts[0]["status"], headers, b"".join(part.get("body", b"") for part in parts[1:])


@asynccontextmanager
async def stage(
    settings: RegistrySettings, home: Path, folders: Iterable[Path], policy: CanaryPolicy, seed: int
) -> AsyncIterator[Stage]:
    """A service with one adapter, ``bot``, that has a version of each folder; the first is champion."""
    rng, ways = random.Random(seed), {}
    with patch("service.app.make_engine", lambda kind, engine: Cast(engine, ways, rng)):
        service = Service(ServiceSettings(engine="stub", home=home), settings.model_copy(update={"base": "stub"}))
    registry = service.parts.registry
    registry.settings = settings  # the stub has no base whose shape could be checked
    for folder in folders:
        registry.register("bot", folder, by="bench")
    registry.promote("bot", 1, by="bench")
    registry.set_policy("bot", Policy(canary=policy), by="bench")
    driver = RunDriver(registry, WorkerSettings(), lambda message: None, lambda run_id, seconds: None)
    app = make_app()
    app.state.parts, app.state.gateway = service.parts, service.gateway
    await service.start()
    service.open(app.state.gatekeeper)
    try:
        yield Stage("bot", registry, service, Gate(app, app.state.gatekeeper), ways, rng, driver, policy)
    finally:
        await service.stop()
        gc.unfreeze()


def verdict_of(event: Event) -> str:
    """How a trial ended, by the event that ended it."""
    return "promoted" if event.kind == "promoted" else str(event.details["trial"]["verdict"])
