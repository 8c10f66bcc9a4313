"""Notices a Redis that went back: restored from an older file, or empty where adapters are known.

A rollout's revision and an adapter's highest version number only grow. What this process saw, and what live replicas say in
their heartbeats that they know, is therefore a lower bound; a registry below it lost moves or registrations, and whoever
went on in it would write another history over the one that users saw, or give a name that is loaded somewhere to other
bytes. So moves and registrations are refused until a newer backup is restored or somebody accepts the older state, which
leaves an event, a revision above all that were known, and no version number that was.
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
from registry.store import Reached, Store
from registry.stores.redis import microseconds
from registry.text import a_reason


@dataclass(frozen=True, slots=True)
class Behind:
    """An adapter that is not as far as was known; ``actual`` None: it is not there at all."""

    adapter: str
    expected: Reached
    actual: Reached | None

    @property
    def numbers(self) -> dict[str, int | None]:
        """As ``RegistryWentBack`` tells them."""
        return {
            "expected_revision": self.expected.revision,
            "actual_revision": self.actual and self.actual.revision,
            "expected_versions": self.expected.versions,
            "actual_versions": self.actual and self.actual.versions,
        }


def find_behind(known: Mapping[str, Reached], actual: Mapping[str, Reached]) -> list[Behind]:
    """The adapters of which more was known than is there, by name."""
    return [
        Behind(adapter, expected, there)
        for adapter, expected in sorted(known.items())
        if (there := actual.get(adapter)) is None or there.or_further(expected) != there
    ]


def went_back(behind: Iterable[Behind]) -> RegistryWentBack:
    """The refusal of whatever would go on from there."""
    return RegistryWentBack({one.adapter: one.numbers for one in behind})


class Guard:
    """Safe for threads. What it remembers ends with the process; replicas keep theirs on disk."""

    def __init__(self, client: RegistryRedis, keys: Keys, store: Store, replicas: Replicas) -> None:
        self._redis, self._keys = client, keys
        self._store, self._replicas = store, replicas
        self._accept = script(client, "accept")
        self._seen: dict[str, Reached] = {}
        self._lock = threading.Lock()

    def remember(self, reached: Mapping[str, Reached]) -> None:
        """The adapters were this far."""
        with self._lock:
            for adapter, seen in reached.items():
                self._seen[adapter] = seen.or_further(self._seen.get(adapter, seen))

    def behind(self) -> list[Behind]:
        """The adapters that went back, by name; empty: all is well. Two round trips."""
        for replica in self._replicas.live():
            self.remember({adapter: Reached(revision, 0) for adapter, revision in replica.revisions.items()})
            self.remember({adapter: Reached(0, number) for adapter, number in replica.highest.items()})
        with self._lock:
            expected = dict(self._seen)
        actual = self._store.reached()  # asked last: whatever was known before it must be in it
        self.remember(actual)
        return find_behind(expected, actual)

    def check(self) -> None:
        """``RegistryWentBack``, or nothing."""
        if behind := self.behind():
            raise went_back(behind)

    def accept(self, *, by: str, reason: str, known: Iterable[Rollout] = ()) -> list[Rollout]:
        """Go on from the older state, deliberately: every adapter that went back gets one event and a new revision.

        ``known``: rollouts that the caller followed; their version numbers are not given again. Answers the rollouts
        after it, which every replica follows as it follows any move; none went back: nothing happens. An adapter that
        vanished is there again, without versions. Repeated after a failure, it does what is left.
        """
        a_reason(reason)
        used = self._used(known)
        return [self._accepted(one, used.get(one.adapter, 0), by=by, reason=reason) for one in self.behind()]

    def _accepted(self, one: Behind, used: int, *, by: str, reason: str) -> Rollout:
        name, keys = one.adapter, self._keys
        while True:
            at = now()
            record = None if one.actual is None else self._store.rollout(name)[0]
            held = record or Rollout(adapter=name, revision=0, moved_at=at)
            revision = max(one.expected.revision, held.revision) + 1
            after = held.model_copy(update={"revision": revision, "moved_at": at})
            event = Event(
                kind="registry_accepted",
                adapter=name,
                at=at,
                by=by,
                reason=reason,
                after=after.champion,
                revision=after.revision,
                live=after.live,
                details=one.numbers,
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
                    max(used, one.expected.versions),
                    name,
                    keys.changes,
                    microseconds(at),
                ],
            )
            if done:
                return after
            one = Behind(name, one.expected, self._store.reached().get(name))

    def _used(self, known: Iterable[Rollout]) -> dict[str, int]:
        """The highest version number by adapter that a replica knows or a known rollout names."""
        pairs = [pair for replica in self._replicas.live() for pair in replica.highest.items()]
        for rollout in known:
            pairs += [(rollout.adapter, n) for n in (*rollout.pinned, *rollout.trail, *rollout.withdrawn)]
        highest: dict[str, int] = {}
        for adapter, number in pairs:
            highest[adapter] = max(number, highest.get(adapter, 0))
        return highest
