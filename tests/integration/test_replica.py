"""A replica follows the registry: loaded before it answers, soon after a move elsewhere, from disk without Redis.

The engine is the stub: what is tested is everything around it. The real one is in tests/e2e.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from registry.connection import connect
from registry.errors import AdapterUnknown, ArtifactMissing, NotReady, RegistryDown, VersionRetired, VersionUnknown
from registry.keys import Keys
from registry.records import Rollout
from registry.registry import Registry
from registry.settings import RegistrySettings
from service import rollouts
from service.engine import EngineSettings
from service.engines.stub import StubEngine
from service.leases import Leases
from service.replica import Held, Replica
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


async def a_replica(
    registry: Registry, tmp_path: Path, name: str = "one", *, places: int = 4
) -> tuple[Replica, Residents]:
    engine = StubEngine(EngineSettings(base="stub", max_loras=places))
    await engine.start()
    residents = Residents(engine, Leases())
    known = tmp_path / f"{name}.json"
    return Replica(registry, residents, replica_id=name, poll_seconds=0.1, known=known), residents


async def until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def slow_disk(registry: Registry, adapter: str, version: int) -> threading.Event:
    """The bytes of this version come only once the event is set (or half a minute is over)."""
    let_go, fetch, digest = threading.Event(), registry.artifacts.fetch, registry.version(adapter, version).digest

    def fetch_slowly(wanted: str) -> Path:
        if wanted == digest:
            let_go.wait(30)
        return fetch(wanted)

    registry.artifacts.fetch = fetch_slowly  # type: ignore[method-assign]
    return let_go


async def answers(replica: Replica) -> str:
    held = await replica.hold(ModelId(BOT), None)
    held.lease.release()
    return held.name


async def test_a_hint_in_the_moment_of_a_stop_does_not_hold_it_up(registry: Registry, tmp_path: Path) -> None:
    """A replica that waits is told of a move and stopped before it has woken: it stops."""
    replica, _ = await a_replica(registry, tmp_path)
    replica._poll = 30.0
    await replica.start()
    await asyncio.sleep(0.5)
    replica.hint()
    async with asyncio.timeout(20):
        await replica.stop()


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


class Deaf(Replica):
    """A replica that pub/sub tells nothing."""

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        return


async def a_deaf_replica(registry: Registry, tmp_path: Path) -> Deaf:
    engine = StubEngine(EngineSettings(base="stub", max_loras=4))
    await engine.start()
    return Deaf(
        registry, Residents(engine, Leases()), replica_id="deaf", poll_seconds=0.05, known=tmp_path / "deaf.json"
    )


async def test_a_poll_alone_follows_every_move_and_reads_nothing_while_none_is_made(
    redis_process: RedisServer, registry_settings: RegistrySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without hints and without a sweep: the count that a move makes is enough, on the real Redis, move after move. While
    nothing moves the adapters' revisions are not read at all."""
    monkeypatch.setattr(rollouts, "SWEEP_SECONDS", 3600.0)
    registry = Registry.open(registry_settings.model_copy(update={"redis_url": redis_process.url}))
    an_adapter(registry, tmp_path)
    replica = await a_deaf_replica(registry, tmp_path)
    await replica.start()
    try:
        with connect(redis_process.url) as redis:

            def calls(command: str) -> int:
                stats: dict[str, dict[str, int]] = redis.info("commandstats")
                return stats.get(f"cmdstat_{command}", {}).get("calls", 0)

            for version in (2, 3, 1, 3, 2):
                await asyncio.to_thread(registry.promote, BOT, version, by="elsewhere")
                await until(lambda version=version: replica.rollouts[BOT].champion == version)  # type: ignore[misc]
            await asyncio.to_thread(registry.create_adapter, "another", by="elsewhere")
            await until(lambda: "another" in replica.rollouts)
            sorts, gets = calls("sort"), calls("get")
            await until(lambda: calls("get") >= gets + 20)  # twenty polls
            assert calls("sort") == sorts
    finally:
        await replica.stop()
        registry.close()


async def test_a_move_that_was_not_counted_is_found_by_the_sweep(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older Shoal beside this one counts nothing; with its hint lost as well the sweep finds the move."""
    monkeypatch.setattr(rollouts, "SWEEP_SECONDS", 0.2)
    an_adapter(registry, tmp_path)
    replica = await a_deaf_replica(registry, tmp_path)
    await replica.start()
    try:
        count = registry.moves_made()
        registry.promote(BOT, 2, by="elsewhere")
        registry.redis.set(Keys(registry.settings.namespace).moves_made, count)
        await until(lambda: replica.rollouts[BOT].champion == 2)
    finally:
        await replica.stop()


async def test_a_hint_is_enough_for_a_move_that_was_not_counted(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an older Shoal moves is followed as before: its hint makes the replica read every revision."""
    monkeypatch.setattr(rollouts, "SWEEP_SECONDS", 3600.0)
    an_adapter(registry, tmp_path)
    replica = await a_deaf_replica(registry, tmp_path)
    await replica.start()
    try:
        count, key = registry.moves_made(), Keys(registry.settings.namespace).moves_made
        with registry.redis.pipeline() as uncounted:  # as one moment: the replica sees no other count
            seen = registry.rollout(BOT)
            after = seen.model_copy(update={"revision": seen.revision + 1, "champion": 2})
            record = {"revision": after.revision, "record": after.model_dump_json()}
            uncounted.hset(Keys(registry.settings.namespace).rollout(BOT), mapping=record)
            uncounted.execute()
        assert int(registry.redis.get(key) or 0) == count  # type: ignore[arg-type]
        replica.hint()
        await until(lambda: replica.rollouts[BOT].champion == 2)
    finally:
        await replica.stop()


class Broken(StubEngine):
    """An engine that fails in a way that nobody thought of."""

    async def add(self, name: str, path: Path) -> None:
        if name == f"{BOT}@3":
            raise RuntimeError("the slots are on fire")
        await super().add(name, path)


async def test_a_failure_that_nobody_thought_of_refuses_a_move_with_its_reason(
    registry: Registry, tmp_path: Path
) -> None:
    """At once, and not when the time for getting ready is over."""
    an_adapter(registry, tmp_path)
    engine = Broken(EngineSettings(base="stub", max_loras=3))
    await engine.start()
    residents = Residents(engine, Leases())
    replica = Replica(registry, residents, replica_id="one", poll_seconds=0.1, known=tmp_path / "one.json")
    await replica.start()
    try:
        await until(lambda: bool(registry.replicas.live()))
        with pytest.raises(NotReady, match="the slots are on fire"):
            await asyncio.to_thread(registry.ready, BOT, 3, 3600.0)
    finally:
        await replica.stop()


async def test_what_the_engine_holds_is_the_engine_s_own_account(registry: Registry, tmp_path: Path) -> None:
    """A stranger in the engine shows, which no heartbeat tells of: it is no version that may be asked."""
    an_adapter(registry, tmp_path)
    engine = StubEngine(EngineSettings(base="stub", max_loras=3))
    await engine.start()
    residents = Residents(engine, Leases())
    replica = Replica(registry, residents, replica_id="one", poll_seconds=0.1, known=tmp_path / "one.json")
    await replica.start()
    try:
        await engine.add("stranger@1", tmp_path / "expert-2")
        assert await replica.engine_holds() == [f"{BOT}@1", "stranger@1"]
        assert replica.places == 3
        await until(lambda: bool(registry.replicas.live()))
        assert registry.replicas.live()[0].holds == (f"{BOT}@1",)
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
        hide(registry, registry.version(BOT, 2).digest)
        with pytest.raises(NotReady):
            await asyncio.to_thread(registry.ready, BOT, 2, 20.0)
        assert registry.rollout(BOT).champion == 1
    finally:
        await one.stop()
        await two.stop()


async def test_a_version_that_was_wished_for_and_pushed_out_is_loaded_again(registry: Registry, tmp_path: Path) -> None:
    """Between "ready" and the move another adapter may need the place: while the wish stands the version comes back."""
    an_adapter(registry, tmp_path)
    replica, residents = await a_replica(registry, tmp_path)
    await replica.start()
    try:
        await asyncio.to_thread(registry.replicas.ask, BOT, 3)
        await until(lambda: f"{BOT}@3" in residents.ready)
        assert await residents.remove(f"{BOT}@3")
        await until(lambda: f"{BOT}@3" in residents.ready)
    finally:
        await replica.stop()


async def test_choosing_a_version_asks_redis_nothing(
    redis_process: RedisServer, registry_settings: RegistrySettings, tmp_path: Path
) -> None:
    """A thousand requests are let in without one Redis command, by champion, by number and by session.

    The replica has stopped keeping up, so that what Redis counts could only come from the requests.
    """
    registry = Registry.open(registry_settings.model_copy(update={"redis_url": redis_process.url}))
    an_adapter(registry, tmp_path)
    replica, _ = await a_replica(registry, tmp_path)
    await replica.start()
    await replica.stop()
    with connect(redis_process.url) as redis:
        before = redis.info("stats")["total_commands_processed"]
        for number in range(1000):
            model = ModelId(BOT, version=1) if number % 2 else ModelId(BOT)
            (await replica.hold(model, f"session-{number}")).lease.release()
        counted = redis.info("stats")["total_commands_processed"] - before
    registry.close()
    assert counted == 1  # the first of the two questions


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


class Cut(Registry):
    """A Redis that dies when an adapter of this name is read."""

    last = ""

    def rollout(self, adapter: str) -> Rollout:
        if adapter == self.last:
            raise RegistryDown("it died just now")
        return super().rollout(adapter)


async def test_a_redis_that_dies_while_a_replica_starts_hides_no_adapter(
    registry_settings: RegistrySettings, tmp_path: Path
) -> None:
    """What was read before it died is followed as it was read; the others answer as they were last known."""
    registry = Cut.open(registry_settings)
    assert isinstance(registry, Cut)
    an_adapter(registry, tmp_path)
    registry.register("other", write_adapter(tmp_path / "other", seed=77), by="test")
    registry.promote("other", 1, by="test")
    replica, _ = await a_replica(registry, tmp_path)
    await replica.start()
    await replica.stop()
    for name, version in ((BOT, 2), ("other", 1)):
        registry.promote(name, version, by="test")
    registry.last = "other"
    again, _ = await a_replica(registry, tmp_path)
    await again.start()
    try:
        assert await answers(again) == f"{BOT}@2"
        assert await _released(again.hold(ModelId("other"), None)) == "other@1"
    finally:
        await again.stop()
        registry.close()


async def test_one_newer_rollout_among_many_keeps_nobody_from_the_others(registry: Registry, tmp_path: Path) -> None:
    """More adapters than are read one by one: the one that a newer Shoal wrote is told, the others are followed."""
    names = [f"bot-{number:02}" for number in range(rollouts.MANY + 1)]
    for name in names:
        registry.create_adapter(name, by="test")
    newer = registry.rollout(names[5]).model_copy(update={"schema_number": 99})
    registry.redis.hset(Keys(registry.settings.namespace).rollout(names[5]), "record", newer.model_dump_json())
    replica, _ = await a_replica(registry, tmp_path)
    await replica.start()
    try:
        assert sorted(replica.rollouts) == [name for name in names if name != names[5]]
        assert "upgrade" in replica.problems[names[5]]
    finally:
        await replica.stop()


async def test_a_thousand_adapters_do_not_keep_a_replica_from_starting(registry: Registry, tmp_path: Path) -> None:
    """Champions that fit are loaded, the others when they are asked for; several cold ones at once are all answered."""
    folder = write_adapter(tmp_path / "one")
    version, _ = registry.register(BOT, folder, by="test")
    names = [f"bot-{number}" for number in range(999)]
    for name in names:
        registry.register_digest(name, version.digest, by="test", rank=version.rank, size=version.size)
        registry.promote(name, 1, by="test")
    replica, residents = await a_replica(registry, tmp_path)
    await replica.start()
    try:
        assert replica.ready
        assert len(replica.rollouts) == 1000
        assert len(residents.ready) == residents.places - 1
        crowd = [replica.hold(ModelId(name), None) for name in names[::100] for _ in range(20)]
        for held in await asyncio.gather(*(_released(asked) for asked in crowd)):
            assert held.partition("@")[0] in names
        assert replica.leases == {}
        assert len(residents.ready) <= residents.places
    finally:
        await replica.stop()


async def test_what_has_no_place_of_its_own_is_told(
    registry: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two adapters, each with a way back, want all four places, and one stays free: the way back that is left out is named,
    whoever was asked last, and one line says from how many places on all fit. With it gone, nothing is left out."""
    an_adapter(registry, tmp_path)
    for seed in (7, 8):
        registry.register("other", write_adapter(tmp_path / f"other-{seed}", seed=seed), by="test")
        registry.promote("other", seed - 6, by="test")
    registry.promote(BOT, 2, by="test")
    replica, residents = await a_replica(registry, tmp_path)
    ways_back = {f"{BOT}@1", "other@1"}
    with caplog.at_level("INFO", logger="shoal.replica"):
        await replica.start()
        try:
            for asked, left_out in (("other", f"{BOT}@1"), (BOT, "other@1")):
                (await replica.hold(ModelId(asked), None)).lease.release()
                await until(lambda left_out=left_out: replica.without_place == [left_out])  # type: ignore[misc]
                assert residents.pinned == {f"{BOT}@2", "other@2", *ways_back} - {left_out}
            said = [line for line in caplog.messages if "without a place of their own" in line]
            assert len(said) == 1
            assert "SHOAL_MAX_LORAS is 4, all fit from 5 on" in said[0]
            await asyncio.to_thread(registry.roll_back, "other", by="test")
            await until(lambda: replica.without_place == [])
            assert residents.pinned == {f"{BOT}@2", f"{BOT}@1", "other@1"}
        finally:
            await replica.stop()


async def test_five_places_keep_the_ways_back_of_two_adapters(registry: Registry, tmp_path: Path) -> None:
    """Twice the adapters and one: none is left out; a version pinned by hand wants one more."""
    an_adapter(registry, tmp_path)
    for seed in (7, 8):
        registry.register("other", write_adapter(tmp_path / f"other-{seed}", seed=seed), by="test")
        registry.promote("other", seed - 6, by="test")
    registry.promote(BOT, 2, by="test")
    replica, residents = await a_replica(registry, tmp_path, places=5)
    await replica.start()
    try:
        assert replica.without_place == []
        assert residents.ready == {f"{BOT}@1", f"{BOT}@2", "other@1", "other@2"}
        await asyncio.to_thread(registry.pin, BOT, 3, by="test")
        await until(lambda: replica.without_place == [f"{BOT}@3"])
    finally:
        await replica.stop()


async def _released(asked: Awaitable[Held]) -> str:
    held = await asked
    held.lease.release()
    return held.name


async def test_a_champion_that_cannot_be_loaded_keeps_nobody_from_the_others(
    registry: Registry, tmp_path: Path
) -> None:
    """The replica is ready, says what it cannot serve and why, and answers for the other adapter; once the bytes are back
    the version is served."""
    an_adapter(registry, tmp_path)
    registry.register("lost", write_adapter(tmp_path / "lost", seed=77), by="test")
    registry.promote("lost", 1, by="test")
    lost = hide(registry, registry.version("lost", 1).digest)
    replica, _ = await a_replica(registry, tmp_path)
    await replica.start()
    try:
        assert replica.ready
        assert await answers(replica) == f"{BOT}@1"
        assert list(replica.unservable) == ["lost@1"]
        with pytest.raises(ArtifactMissing):
            await replica.hold(ModelId("lost"), None)
        with pytest.raises(NotReady):  # nor may such a version be promoted
            await asyncio.to_thread(registry.ready, "lost", 1, 20.0)
        show(lost)
        await asyncio.to_thread(registry.ready, "lost", 1, 20.0)  # asked again, it is tried again at once
        held = await replica.hold(ModelId("lost"), None)
        held.lease.release()
        assert replica.unservable == {}
    finally:
        await replica.stop()


async def test_a_slow_load_of_one_adapter_holds_up_no_other(registry: Registry, tmp_path: Path) -> None:
    """While a version takes its time to arrive, a move of another adapter is followed at once."""
    an_adapter(registry, tmp_path)
    registry.register("slow", write_adapter(tmp_path / "slow", seed=77), by="test")
    replica, residents = await a_replica(registry, tmp_path)
    await replica.start()
    await asyncio.to_thread(registry.ready, BOT, 2, 20.0)
    let_go = slow_disk(registry, "slow", 1)
    try:
        await asyncio.to_thread(registry.promote, "slow", 1, by="test")
        await asyncio.to_thread(registry.replicas.ask, "slow", 1)
        await asyncio.to_thread(registry.promote, BOT, 2, by="test")
        await until(lambda: replica.rollouts[BOT].champion == 2)
        assert "slow@1" not in residents.ready
        let_go.set()
        held = await replica.hold(ModelId("slow"), None)
        held.lease.release()
    finally:
        let_go.set()
        await replica.stop()


async def test_an_old_answer_displaces_nothing_newer_that_is_under_way(registry: Registry, tmp_path: Path) -> None:
    """A call that is repeated brings the rollout of then while a later one is being loaded: the later champion stays pinned,
    and who brought the old one hears when requests are routed by the later."""
    an_adapter(registry, tmp_path)
    replica, residents = await a_replica(registry, tmp_path)
    let_go = slow_disk(registry, BOT, 3)
    try:
        await replica.take(registry.rollout(BOT))
        old, new = (registry.promote(BOT, version, by="test") for version in (2, 3))
        newer = asyncio.create_task(replica.take(new))
        await asyncio.sleep(0)
        await replica.take(old)
        assert f"{BOT}@3" in residents.pinned
        assert replica.rollouts[BOT] == new
        await newer
    finally:
        let_go.set()
        await replica.stop()


async def test_a_retired_version_leaves_the_engine(registry: Registry, tmp_path: Path) -> None:
    """Loaded because somebody named it, then retired: it is turned out, and refused from then on."""
    an_adapter(registry, tmp_path)
    replica, residents = await a_replica(registry, tmp_path)
    await replica.start()
    try:
        held = await replica.hold(ModelId(BOT, version=3), None)
        held.lease.release()
        await asyncio.to_thread(registry.retire, BOT, 3, by="test")
        await until(lambda: f"{BOT}@3" not in residents.ready)
        with pytest.raises(VersionRetired):
            await replica.hold(ModelId(BOT, version=3), None)
    finally:
        await replica.stop()


async def test_a_version_that_the_registry_lost_leaves_the_engine(registry: Registry, tmp_path: Path) -> None:
    """An older registry was accepted that does not know it: at the next move it is turned out, and so is what was retired."""
    an_adapter(registry, tmp_path)
    replica, residents = await a_replica(registry, tmp_path)
    await replica.start()
    try:
        for version in (2, 3):
            await _released(replica.hold(ModelId(BOT, version=version), None))
        registry.redis.hdel(Keys(registry.settings.namespace).versions(BOT), "3")
        await asyncio.to_thread(registry.retire, BOT, 2, by="test")
        await until(lambda: residents.ready == {f"{BOT}@1"})
        with pytest.raises(VersionUnknown):
            await replica.hold(ModelId(BOT, version=3), None)
    finally:
        await replica.stop()


def hide(registry: Registry, digest: str) -> list[tuple[Path, Path]]:
    """Take an artifact away, from the store and the cache."""
    moved = []
    for place in (Path(registry.settings.artifacts_url), Path(registry.settings.cache_dir)):
        for found in sorted(place.rglob(f"*{digest.removeprefix('sha256:')[8:40]}*")):
            if found.exists():
                aside = found.with_name(f"hidden-{found.name[:4]}")
                found.rename(aside)
                moved.append((aside, found))
    return moved


def show(moved: list[tuple[Path, Path]]) -> None:
    for aside, found in moved:
        aside.rename(found)
