"""Replicas that live, end, and get ready, on a real Redis."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from registry.connection import RegistryRedis
from registry.errors import NotReady, VersionUnknown
from registry.keys import Keys
from registry.records import Replica, now
from registry.registry import Registry
from tests.peft_folders import write_adapter


def alive(id_: str, *holds: str, **refused: str) -> Replica:
    named = {name.replace("_", "@"): why for name, why in refused.items()}
    return Replica(id=id_, at=now(), holds=holds, refused=named)


@pytest.fixture
def stocked(registry: Registry, tmp_path: Path) -> Registry:
    registry.register("bot", write_adapter(tmp_path / "mine"), by="ann")
    return registry


def test_a_replica_lives_while_it_beats(registry: Registry) -> None:
    """A record ends by itself when its replica falls silent, and at once when it says goodbye."""
    registry.replicas.beat(alive("b"), ttl=0.2)
    registry.replicas.beat(alive("a", "bot@1"))
    registry.replicas.beat(alive("c"))
    registry.replicas.gone("c")

    assert [replica.id for replica in registry.replicas.live()] == ["a", "b"]
    time.sleep(0.25)
    assert [replica.holds for replica in registry.replicas.live()] == [("bot@1",)]


def test_a_newer_replicas_heartbeat_is_read(registry: Registry, redis_client: RegistryRedis, keys: Keys) -> None:
    """During an upgrade one replica may say more than another knows of: both count, and what is known is read."""
    registry.replicas.beat(alive("a", "bot@1"))
    registry.replicas.beat(alive("b", "bot@1"))
    records = keys.records("replicas")
    known = json.loads(redis_client.hget(records, "b") or "")
    redis_client.hset(records, "b", json.dumps(known | {"zone": "west"}))

    assert [(replica.id, replica.holds) for replica in registry.replicas.live()] == [
        ("a", ("bot@1",)),
        ("b", ("bot@1",)),
    ]
    assert registry.replicas.readiness("bot", 1).ready == ["a", "b"]


def test_a_wish_ends(registry: Registry) -> None:
    """What is asked for is read by every replica, until it ends."""
    registry.replicas.ask("bot.v-2", 7)
    registry.replicas.ask("bot", 1, ttl=0.1)

    assert registry.replicas.wanted() == [("bot", 1), ("bot.v-2", 7)]
    time.sleep(0.15)
    assert registry.replicas.wanted() == [("bot.v-2", 7)]


def test_a_wish_is_taken_back_by_whoever_made_it_last(registry: Registry) -> None:
    """A move that is over takes its own wish along, and not that of another move for the same version."""
    first = registry.replicas.ask("bot", 1)
    second = registry.replicas.ask("bot", 1)

    registry.replicas.withdraw("bot", 1, first)
    assert registry.replicas.wishes() == [("bot", 1, second)]
    registry.replicas.withdraw("bot", 1, second)
    assert registry.replicas.wishes() == []


def test_readiness_is_what_live_replicas_say(registry: Registry) -> None:
    """Ready, waiting, refused: each live replica is in one of them; without replicas all are empty."""
    assert registry.replicas.readiness("bot", 1).complete
    registry.replicas.beat(alive("a", "bot@1", bot_1="once refused, then loaded"))
    registry.replicas.beat(alive("b", "bot@11"))
    registry.replicas.beat(alive("c", bot_1="out of memory"))

    seen = registry.replicas.readiness("bot", 1)

    assert (seen.ready, seen.waiting, seen.refused) == (["a"], ["b"], {"c": "out of memory"})
    assert not seen.complete


def test_a_replica_that_fell_silent_is_waited_for_a_while(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its record has ended, as all have after an outage of Redis: it is listed no more, and waited for until it beats, says
    goodbye, or its time is over, which begins when its end is first seen. One that held the version holds up nobody."""
    monkeypatch.setattr("registry.replicas.SILENT_SECONDS", 0.3)
    for id_ in ("back", "killed", "leaving"):
        registry.replicas.beat(alive(id_, "bot@2"), ttl=0.1)
    time.sleep(0.6)

    assert registry.replicas.readiness("bot", 1).waiting == ["back", "killed", "leaving"]
    assert registry.replicas.live() == []
    assert registry.replicas.readiness("bot", 2).complete
    registry.replicas.beat(alive("back", "bot@1"))
    registry.replicas.gone("leaving")
    assert registry.replicas.readiness("bot", 1).waiting == ["killed"]
    time.sleep(0.35)
    seen = registry.replicas.readiness("bot", 1)
    assert (seen.ready, seen.complete) == (["back"], True)


def test_a_replica_that_was_killed_holds_a_move_up_for_seconds(
    stocked: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A move is not ready at once where a replica has just fallen silent, and is once its time is over."""
    monkeypatch.setattr("registry.replicas.SILENT_SECONDS", 0.5)
    stocked.replicas.beat(alive("killed"), ttl=0.01)
    time.sleep(0.05)
    with pytest.raises(NotReady, match="killed: not ready"):
        stocked.ready("bot", 1, timeout=0.1)
    assert stocked.ready("bot", 1, timeout=10).complete


def test_a_wish_that_is_kept_up_keeps_its_number(registry: Registry) -> None:
    """Who comes back goes on with one wish: a refusal of an earlier one does not count, a refusal of this one does, at every
    look; once it is taken back, or over, the next look makes another."""
    earlier = registry.replicas.ask("bot", 1)
    registry.replicas.withdraw("bot", 1, earlier)
    replica = alive("a", bot_1="no memory").model_copy(update={"heard": {"bot@1": earlier}})
    registry.replicas.beat(replica)

    seen = registry.replicas.getting_ready("bot", 1)
    assert (seen.waiting, seen.asked) == (["a"], earlier + 1)
    registry.replicas.beat(replica.model_copy(update={"heard": {"bot@1": seen.asked}}))
    assert [registry.replicas.getting_ready("bot", 1).refused for _ in range(2)] == [{"a": "no memory"}] * 2
    registry.replicas.withdraw("bot", 1, seen.asked)
    assert registry.replicas.getting_ready("bot", 1, ttl=0.01).asked == earlier + 2
    time.sleep(0.05)
    assert registry.replicas.getting_ready("bot", 1).asked == earlier + 3


def test_ready_waits_for_every_live_replica(stocked: Registry) -> None:
    """The version is asked for, and the wait ends when the last replica holds it."""
    stocked.replicas.beat(alive("a", "bot@1"))
    stocked.replicas.beat(alive("b"))

    def load() -> None:
        while ("bot", 1) not in stocked.replicas.wanted():
            time.sleep(0.01)
        stocked.replicas.beat(alive("b", "bot@1"))

    loader = threading.Thread(target=load)
    loader.start()
    seen = stocked.ready("bot", 1, timeout=5)
    loader.join()

    assert seen.ready == ["a", "b"]


def test_a_replica_that_cannot_says_why(stocked: Registry) -> None:
    """A refusal ends the wait at once, silence at its end; both name the replica; the champion has not moved."""
    stocked.replicas.beat(alive("slow"))
    with pytest.raises(NotReady) as late:
        stocked.ready("bot", 1, timeout=0.2)
    assert late.value.details["replicas"] == {"slow": "not ready within 0.2 s"}
    assert late.value.message == (
        "bot@1 was asked for and is not ready on every replica, so nothing moved. slow: not ready within 0.2 s. Mend that and "
        "repeat the move, or move to a version that every replica holds: `holds` in `shoal status`."
    )

    stocked.replicas.beat(alive("small", bot_1="out of memory"))
    with pytest.raises(NotReady, match="small: out of memory"):
        stocked.ready("bot", 1, timeout=30)
    assert stocked.rollout("bot").champion is None


def test_without_replicas_there_is_nobody_to_ask(stocked: Registry) -> None:
    """No live replica: ready at once. A version that does not exist is unknown first."""
    assert stocked.ready("bot", 1, timeout=0).complete
    with pytest.raises(VersionUnknown):
        stocked.ready("bot", 2, timeout=0)
