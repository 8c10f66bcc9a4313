"""A registry with a thousand adapters and ten thousand versions: records only, to see what their number costs."""

from __future__ import annotations

from registry.canonical import digest
from registry.connection import connect
from registry.keys import Keys
from registry.records import Event, Rollout, Version, now
from registry.stores.redis import RedisStore

CROWDED = "crowded"


def fill(redis_url: str, adapters: int = 1000, versions: int = 10_000) -> tuple[int, int]:
    """``adapters`` without versions, and one of them with all the ``versions``; the bytes that they name do not exist."""
    with connect(redis_url) as client:
        store = RedisStore(client, Keys())
        at = now()
        for name in [CROWDED, *(f"idle-{number}" for number in range(adapters - 1))]:
            created = Event(kind="created", adapter=name, at=at, by="bench", revision=0)
            store.create(Rollout(adapter=name, revision=0, moved_at=at), created)
        for number in range(1, versions + 1):
            version = Version(
                adapter=CROWDED,
                version=number,
                digest=digest(["bench", number]),
                rank=8,
                size=1,
                created_at=at,
                created_by="bench",
            )
            event = Event(kind="registered", adapter=CROWDED, at=at, by="bench", version=number, revision=0)
            store.add_version(version, event)
    return adapters, versions
