"""An older Redis, or an empty one where adapters are known, is noticed; nothing moves in it until somebody accepts it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from registry.errors import RegistryWentBack
from registry.registry import Registry
from registry.settings import RegistrySettings
from tests.integration.test_replica import BOT, a_replica, an_adapter, answers, until
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
    assert version.version == (3 if vanished else 2)  # a number that was known is never given again
    await asyncio.to_thread(worker.promote, BOT, version.version, by="worker")
    await until(lambda: again.rollouts[BOT].champion == version.version)
    await again.stop()
    registry.close()
    worker.close()


class Overtaken(Registry):
    """A registry whose answer about the revisions is overtaken by a move before anybody looks at it."""

    meanwhile: Callable[[], None] | None = None

    def revisions(self) -> dict[str, int]:
        answer = super().revisions()
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
        registry.promote(BOT, 2, by="test")
        asyncio.run_coroutine_threadsafe(replica.converge(BOT), loop).result(20)

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
