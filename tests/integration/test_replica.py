"""A replica follows the registry: loaded before it answers, soon after a move elsewhere, from disk without Redis.

The engine is the stub: what is tested is everything around it. The real one is in tests/e2e.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from registry.errors import AdapterUnknown, NotReady
from registry.registry import Registry
from registry.settings import RegistrySettings
from service.engine import EngineSettings
from service.engines.stub import StubEngine
from service.leases import Leases
from service.replica import Replica
from service.residents import Residents
from service.routing import ModelId
from tests.peft_folders import write_adapter
from tests.redis_server import RedisServer

BOT = "bot"


def an_adapter(registry: Registry, tmp_path: Path, versions: int = 3) -> None:
    for number in range(versions):
        folder = tmp_path / f"expert-{number}"
        write_adapter(folder, seed=number)
        registry.register(BOT, folder, by="test")
    registry.promote(BOT, 1, by="test")


async def a_replica(registry: Registry, tmp_path: Path, name: str = "one") -> tuple[Replica, Residents]:
    engine = StubEngine(EngineSettings(base="stub", max_loras=4))
    await engine.start()
    residents = Residents(engine, Leases())
    known = tmp_path / f"{name}.json"
    return Replica(registry, engine, residents, replica_id=name, poll_seconds=0.1, known=known), residents


async def until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def answers(replica: Replica) -> str:
    held = await replica.hold(ModelId(BOT), None)
    held.lease.release()
    return held.name


async def test_a_move_made_elsewhere_is_followed(registry: Registry, tmp_path: Path) -> None:
    """Another process promotes: this replica loads the version and answers with it, and keeps the way back loaded."""
    an_adapter(registry, tmp_path)
    replica, residents = await a_replica(registry, tmp_path)
    await replica.start()
    try:
        assert await answers(replica) == f"{BOT}@1"
        await asyncio.to_thread(registry.promote, BOT, 2, by="elsewhere")
        await until(lambda: replica.rollouts[BOT].champion == 2)
        assert await answers(replica) == f"{BOT}@2"
        assert {f"{BOT}@1", f"{BOT}@2"} <= residents.ready
    finally:
        await replica.stop()


async def test_every_live_replica_gets_ready_when_asked(registry: Registry, tmp_path: Path) -> None:
    """``Registry.ready`` returns once both hold the version; a version that cannot be fetched is refused with the reason."""
    an_adapter(registry, tmp_path)
    (one, first), (two, second) = [await a_replica(registry, tmp_path, name) for name in ("one", "two")]
    await one.start()
    await two.start()
    try:
        await until(lambda: len(registry.replicas.live()) == 2)
        await asyncio.to_thread(registry.ready, BOT, 3, 20.0)
        assert f"{BOT}@3" in first.ready & second.ready
        missing = registry.version(BOT, 2).digest
        for place in (Path(registry.settings.artifacts_url), Path(registry.settings.cache_dir)):
            for found in place.rglob(f"*{missing.removeprefix('sha256:')[8:40]}*"):
                found.rename(found.with_name("gone")) if found.is_dir() else found.unlink()
        with pytest.raises(NotReady):
            await asyncio.to_thread(registry.ready, BOT, 2, 20.0)
        assert registry.rollout(BOT).champion == 1
    finally:
        await one.stop()
        await two.stop()


async def test_unknown_names_are_refused_and_old_versions_still_answer(registry: Registry, tmp_path: Path) -> None:
    """A version that nobody pinned is loaded for the request that names it."""
    an_adapter(registry, tmp_path)
    replica, _ = await a_replica(registry, tmp_path)
    await replica.start()
    try:
        held = await replica.hold(ModelId(BOT, version=3), None)
        assert held.name == f"{BOT}@3"
        held.lease.release()
        with pytest.raises(AdapterUnknown):
            await replica.hold(ModelId("nobody"), None)
    finally:
        await replica.stop()


async def test_a_replica_starts_and_answers_without_redis(
    redis_process: RedisServer, registry_settings: RegistrySettings, tmp_path: Path
) -> None:
    """Redis is gone when the replica starts again: it serves the rollouts that it last knew."""
    registry = Registry.open(registry_settings.model_copy(update={"redis_url": redis_process.url}))
    an_adapter(registry, tmp_path)
    replica, _ = await a_replica(registry, tmp_path)
    await replica.start()
    await replica.stop()
    redis_process.stop()
    again, _ = await a_replica(registry, tmp_path)
    await again.start()
    try:
        assert again.registry_down
        assert await answers(again) == f"{BOT}@1"
    finally:
        await again.stop()
        registry.close()
