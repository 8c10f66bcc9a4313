"""An older Redis, or an empty one where adapters are known, is noticed; nothing moves in it until somebody accepts it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from registry.errors import RegistryWentBack, VersionUnknown
from registry.keys import Keys
from registry.records import Replica, Version, now
from registry.registry import Registry
from registry.settings import RegistrySettings
from registry.store import Reached
from service.routing import ModelId
from tests.integration.test_replica import BOT, a_replica, an_adapter, answers, until
from tests.peft_folders import write_adapter
from tests.redis_server import RedisServer


@pytest.mark.parametrize("vanished", [False, True], ids=["older", "empty"])
async def test_a_registry_that_went_back_is_refused_until_it_is_accepted(
    redis_process: RedisServer, registry_settings: RegistrySettings, tmp_path: Path, vanished: bool
) -> None:
    """The replica answers as before, a worker's move is refused with both revisions, and after the acceptance all go on."""
    settings = registry_settings.model_copy(update={"redis_url": redis_process.url})
    registry, worker = Registry.open(settings), Registry.open(settings)
    an_adapter(registry, tmp_path)
    replica, _ = await a_replica(registry, tmp_path)
    await replica.start()
    registry.promote(BOT, 2, by="test")
    await until(lambda: replica.rollouts[BOT].champion == 2)
    before = registry.rollout(BOT)
    if vanished:
        registry.redis.flushdb()
    else:
        record = before.model_copy(update={"revision": 1, "champion": 1, "trail": ()})
        registry.redis.hset(
            registry.store._keys.rollout(BOT), mapping={"revision": 1, "record": record.model_dump_json()}
        )  # type: ignore[attr-defined]
    await until(lambda: BOT in replica.problems)
    assert await answers(replica) == f"{BOT}@2"
    await until(lambda: any(one.revisions.get(BOT) == before.revision for one in worker.replicas.live()))
    with pytest.raises(RegistryWentBack, match="accept-registry") as refused:
        await asyncio.to_thread(worker.promote, BOT, 3, by="worker")
    assert refused.value.details["adapters"][BOT] == {
        "expected_revision": before.revision,
        "actual_revision": None if vanished else 1,
        "expected_versions": 3,
        "actual_versions": None if vanished else 3,
    }
    await replica.stop()

    again, _ = await a_replica(registry, tmp_path)  # from the file, beside the older Redis
    await again.start()
    assert await answers(again) == f"{BOT}@2"
    (after,) = await asyncio.to_thread(
        lambda: registry.guard.accept(by="ann", reason="no backup", known=again.rollouts.values())
    )
    assert after.revision == before.revision + 1
    assert registry.history(BOT)[0].kind == "registry_accepted"
    assert registry.rollout_at(BOT, after.moved_at).live.revision == after.revision
    await until(lambda: again.rollouts[BOT].revision == after.revision and not again.problems)
    folder = tmp_path / "expert-1"
    version, _ = await asyncio.to_thread(worker.register, BOT, folder, by="worker")
    assert version.version == (4 if vanished else 2)  # a number that was known is never given again
    await asyncio.to_thread(worker.promote, BOT, version.version, by="worker")
    await until(lambda: again.rollouts[BOT].champion == version.version)
    await again.stop()
    registry.close()
    worker.close()


def lose(registry: Registry, version: Version) -> None:
    """What an older file does not hold of the newest version; its rollout and every other record are as they were."""
    keys, name = Keys(registry.settings.namespace), version.adapter
    registry.redis.hset(keys.adapter(name), "versions", version.version - 1)
    registry.redis.hdel(keys.versions(name), str(version.version))
    registry.redis.hdel(keys.digests(name), version.digest)


@pytest.mark.parametrize("restarted", [False, True], ids=["running", "restarted"])
async def test_the_number_of_a_registration_that_was_lost_is_given_to_no_other_bytes(
    registry_settings: RegistrySettings, tmp_path: Path, restarted: bool
) -> None:
    """No revision tells of it, but the replica that knew of the version does, also from its file: nothing is registered or
    moved until the older state is accepted. Then the lost version answers no more, and the next one has its own number."""
    registry = Registry.open(registry_settings)
    an_adapter(registry, tmp_path)
    before = registry.rollout(BOT)
    replica, residents = await a_replica(registry, tmp_path)
    await replica.start()
    lost, _ = registry.register(BOT, write_adapter(tmp_path / "lost", seed=70), by="ann")
    (await replica.hold(ModelId(BOT, version=4), None)).lease.release()
    if restarted:
        await replica.stop()
    lose(registry, lost)
    if restarted:
        replica, residents = await a_replica(registry, tmp_path)
        await replica.start()
    worker = Registry.open(registry_settings)  # it saw nothing itself
    try:
        await until(lambda: "was at version 4 and is at 3" in replica.problems.get(BOT, ""))
        await until(lambda: any(one.highest.get(BOT) == 4 for one in worker.replicas.live()))
        other = write_adapter(tmp_path / "other", seed=71)
        for refused in (
            lambda: worker.register(BOT, other, by="worker"),
            lambda: worker.promote(BOT, 2, by="worker"),
        ):
            with pytest.raises(RegistryWentBack, match=r"was at version 4 and is at 3.*shoal accept-registry"):
                await asyncio.to_thread(refused)
        assert await answers(replica) == f"{BOT}@1"

        known = list(replica.rollouts.values())
        (after,) = await asyncio.to_thread(
            lambda: worker.guard.accept(by="ann", reason="the disk is lost", known=known)
        )
        assert (after.champion, after.revision) == (before.champion, before.revision + 1)
        assert registry.history(BOT)[0].details["expected_versions"] == 4
        await until(lambda: not replica.problems and f"{BOT}@4" not in residents.ready)
        with pytest.raises(VersionUnknown):
            await replica.hold(ModelId(BOT, version=4), None)
        version, _ = await asyncio.to_thread(worker.register, BOT, other, by="worker")
        assert version.version == 5
        await asyncio.to_thread(worker.ready, BOT, 5, 20.0)
        await asyncio.to_thread(worker.promote, BOT, 5, by="worker")
        await until(lambda: replica.rollouts[BOT].champion == 5)
        assert await answers(replica) == f"{BOT}@5"
    finally:
        await replica.stop()
        registry.close()
        worker.close()


def test_what_a_replica_holds_tells_of_a_lost_registration(registry: Registry, tmp_path: Path) -> None:
    """A replica of an older Shoal says no more than that."""
    registry.register(BOT, write_adapter(tmp_path / "mine"), by="ann")
    registry.replicas.beat(Replica(id="older", at=now(), holds=(f"{BOT}@2",)))
    with pytest.raises(RegistryWentBack, match="was at version 2 and is at 1"):
        registry.register(BOT, write_adapter(tmp_path / "other", seed=71), by="ann")
    assert registry.adapter(BOT).versions == 1


def test_who_lost_what_it_just_did_does_not_go_on(registry: Registry, tmp_path: Path) -> None:
    """Also before anybody has looked again, and with no replica alive: a process remembers its own registrations and moves."""
    an_adapter(registry, tmp_path, versions=2)
    rollout, key = registry.rollout(BOT), Keys(registry.settings.namespace).rollout(BOT)
    lost, _ = registry.register(BOT, write_adapter(tmp_path / "lost", seed=70), by="ann")
    lose(registry, lost)
    with pytest.raises(RegistryWentBack, match="was at version 3 and is at 2"):
        registry.register(BOT, write_adapter(tmp_path / "other", seed=71), by="ann")
    registry.guard.accept(by="ann", reason="the disk is lost")
    after = registry.promote(BOT, 2, by="ann")
    registry.redis.hset(key, mapping={"revision": rollout.revision, "record": rollout.model_dump_json()})
    with pytest.raises(RegistryWentBack, match=f"was at revision {after.revision} and is at {rollout.revision}"):
        registry.promote(BOT, 1, by="ann")


class Overtaken(Registry):
    """A registry whose answer about the revisions is overtaken by a move before anybody looks at it."""

    meanwhile: Callable[[], None] | None = None

    def reached(self) -> dict[str, Reached]:
        answer = super().reached()
        if (meanwhile := self.meanwhile) is not None:
            self.meanwhile = None
            meanwhile()
        return answer


async def test_a_move_that_overtakes_the_answer_is_not_taken_for_an_older_redis(
    registry_settings: RegistrySettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The revisions are asked for, then this replica makes a move itself: the answer is old, the registry is not."""
    registry = Overtaken.open(registry_settings)
    assert isinstance(registry, Overtaken)
    an_adapter(registry, tmp_path)
    replica, _ = await a_replica(registry, tmp_path)
    await replica.start()
    loop = asyncio.get_running_loop()

    def moves() -> None:
        moved = registry.promote(BOT, 2, by="test")
        asyncio.run_coroutine_threadsafe(replica.take(moved), loop).result(20)

    try:
        registry.meanwhile = moves
        replica.hint()
        await until(lambda: replica.rollouts[BOT].champion == 2)
        looked = registry.moves_made()
        await until(lambda: replica._rollouts._counted == looked)
        assert "older registry" not in caplog.text
        assert replica.problems == {}
    finally:
        await replica.stop()
        registry.close()
