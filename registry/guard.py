"""Notices a Redis that went back: restored from an older file, or empty where adapters are known.

A rollout's revision only grows. What this process saw, and what live replicas say in their heartbeats that they follow,
is therefore a lower bound; a registry below it lost moves, and whoever moved on in it would write another history over
the one that users saw. So moves and registrations are refused until a newer backup is restored or somebody accepts the
older state, which leaves an event and a revision above all that were known.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from registry.connection import RegistryRedis
from registry.errors import RegistryWentBack
from registry.keys import Keys
from registry.lua import script
from registry.records import Event, Rollout, now
from registry.replicas import Replicas
from registry.store import Store
from registry.stores.redis import microseconds


@dataclass(frozen=True, slots=True)
class Behind:
    """An adapter whose revision is below one that was known; ``actual`` None: it is not there at all."""

    adapter: str
    expected: int
    actual: int | None


class Guard:
    """Safe for threads. What it remembers ends with the process; replicas keep theirs on disk."""

    def __init__(self, client: RegistryRedis, keys: Keys, store: Store, replicas: Replicas) -> None:
        self._redis, self._keys = client, keys
        self._store, self._replicas = store, replicas
        self._accept = script(client, "accept")
        self._seen: dict[str, int] = {}
        self._lock = threading.Lock()

    def remember(self, revisions: Mapping[str, int]) -> None:
        """These revisions were there."""
        with self._lock:
            for adapter, revision in revisions.items():
                self._seen[adapter] = max(revision, self._seen.get(adapter, 0))

    def behind(self) -> list[Behind]:
        """The adapters that went back, by name; empty: all is well. Two round trips."""
        for replica in self._replicas.live():
            self.remember(replica.revisions)
        with self._lock:
            expected = dict(self._seen)
        actual = self._store.revisions()  # asked last: whatever was known before it must be in it
        self.remember(actual)
        return [
            Behind(adapter, revision, actual.get(adapter))
            for adapter, revision in sorted(expected.items())
            if revision > actual.get(adapter, -1)
        ]

    def check(self) -> None:
        """``RegistryWentBack``, or nothing."""
        if behind := self.behind():
            raise RegistryWentBack({one.adapter: (one.expected, one.actual) for one in behind})

    def accept(self, *, by: str, reason: str, known: Iterable[Rollout] = ()) -> list[Rollout]:
        """Go on from the older state, deliberately: every adapter that went back gets one event and a new revision.

        ``known``: rollouts that the caller followed; their version numbers are not given again. Answers the rollouts
        after it, which every replica follows as it follows any move; none went back: nothing happens. An adapter that
        vanished is there again, without versions. Repeated after a failure, it does what is left.
        """
        used = self._used(known)
        return [self._accepted(one, used.get(one.adapter, 0), by=by, reason=reason) for one in self.behind()]

    def _accepted(self, one: Behind, used: int, *, by: str, reason: str) -> Rollout:
        name, keys = one.adapter, self._keys
        while True:
            at = now()
            record = None if one.actual is None else self._store.rollout(name)[0]
            held = record or Rollout(adapter=name, revision=0, moved_at=at)
            after = held.model_copy(update={"revision": max(one.expected, held.revision) + 1, "moved_at": at})
            event = Event(
                kind="registry_accepted",
                adapter=name,
                at=at,
                by=by,
                reason=reason,
                after=after.champion,
                revision=after.revision,
                live=after.live,
                details={"expected_revision": one.expected, "actual_revision": one.actual},
            )
            self._redis.sadd(keys.adapters, name)
            done = self._accept(
                keys=[keys.adapter(name), keys.rollout(name), keys.history(name), keys.moves(name), keys.moves_made],
                args=[
                    "" if record is None else record.revision,
                    after.revision,
                    after.model_dump_json(),
                    event.model_dump_json(),
                    at.isoformat(),
                    by,
                    used,
                    name,
                    keys.changes,
                    microseconds(at),
                ],
            )
            if done:
                return after
            one = Behind(name, one.expected, self._store.revisions().get(name))

    def _used(self, known: Iterable[Rollout]) -> dict[str, int]:
        """The highest version number by adapter that a replica holds or a known rollout names."""
        names = [name.rpartition("@") for replica in self._replicas.live() for name in replica.holds]
        pairs = [(adapter, int(number)) for adapter, _, number in names]
        for rollout in known:
            pairs += [(rollout.adapter, n) for n in (*rollout.pinned, *rollout.trail, *rollout.withdrawn)]
        highest: dict[str, int] = {}
        for adapter, number in pairs:
            highest[adapter] = max(number, highest.get(adapter, 0))
        return highest
