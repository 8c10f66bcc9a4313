"""The store in Redis (6.2 and later, or Valkey): one Lua file an atomic change, keys as in ``registry/keys.py``."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from redis.exceptions import RedisError

from registry.connection import RegistryRedis
from registry.errors import AdapterUnknown, RegistryDown, VersionRetired, VersionUnknown
from registry.keys import Keys
from registry.lua import script
from registry.policy import Policy
from registry.records import Adapter, Event, Rollout, Version
from registry.store import Answered, Reached, Seen
from registry.stores.memory import moved

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PAGE = 1000  # records that are read in one round trip
_ADAPTER = ("adapter->created_at", "adapter->created_by", "adapter->versions", "rollout->record")
OPERATION_SECONDS = 30 * 24 * 3600  # how long an operation id is answered as the first time


class RedisStore:
    """A ``Store``. JSON goes in and out as the records print it; Lua compares, it never rewrites a number."""

    def __init__(self, client: RegistryRedis, keys: Keys) -> None:
        self._redis = client
        self._keys = keys
        self._create = script(client, "create")
        self._add_version = script(client, "add_version")
        self._move = script(client, "move")

    def ping(self) -> None:
        self._redis.ping()

    def create(self, rollout: Rollout, event: Event) -> bool:
        name, keys = rollout.adapter, self._keys
        # The index first: a name without a record is skipped by every reader, a record without a name would be lost.
        self._redis.sadd(keys.adapters, name)
        return bool(
            self._create(
                keys=[keys.adapter(name), keys.rollout(name), keys.history(name), keys.moves(name), keys.moves_made],
                args=[
                    event.at.isoformat(),
                    event.by,
                    rollout.revision,
                    rollout.model_dump_json(),
                    event.model_dump_json(),
                    name,
                    keys.changes,
                    microseconds(event.at),
                ],
            )
        )

    def adapters(self, limit: int | None = None, after: str = "") -> list[Adapter]:
        if limit is None and not after:
            return [_adapter(*row) for row in self._each(*_ADAPTER)]
        known: Any = self._redis.smembers(self._keys.adapters)
        names = sorted(name for name in known if name > after)
        found: list[Adapter] = []
        while names and (limit is None or len(found) < limit):
            size = _PAGE if limit is None else limit - len(found)
            found += self._named_adapters(names[:size])
            names = names[size:]
        return found

    def _named_adapters(self, names: list[str]) -> list[Adapter]:
        with self._redis.pipeline() as pipe:
            for name in names:
                pipe.hmget(self._keys.adapter(name), "created_at", "created_by", "versions")
                pipe.hget(self._keys.rollout(name), "record")
            answers = pipe.execute()
        rows = [(name, *held, record) for name, held, record in zip(names, answers[::2], answers[1::2], strict=True)]
        return [_adapter(*row) for row in rows if None not in row]

    def adapter(self, name: str) -> Adapter:
        with self._redis.pipeline() as pipe:
            pipe.hgetall(self._keys.adapter(name))
            pipe.hget(self._keys.rollout(name), "record")
            held, record = pipe.execute()
        if not held:
            raise AdapterUnknown(name)
        return Adapter(
            name=name,
            created_at=held["created_at"],
            created_by=held["created_by"],
            versions=held["versions"],
            rollout=Rollout.model_validate_json(record),
        )

    def reached(self) -> dict[str, Reached]:
        rows = self._each("rollout->revision", "adapter->versions")
        return {name: Reached(int(revision), int(versions)) for name, revision, versions in rows}

    def moves_made(self) -> int:
        return int(self._redis.get(self._keys.moves_made) or 0)

    def add_version(self, version: Version, event: Event) -> tuple[Version, bool] | None:
        name, keys = version.adapter, self._keys
        answer, *held = self._add_version(
            keys=[keys.adapter(name), keys.versions(name), keys.digests(name), keys.history(name)],
            args=[
                version.version,
                version.digest,
                version.model_dump_json(),
                event.model_dump_json(),
                name,
                keys.changes,
            ],
        )
        if answer == "unknown":
            raise AdapterUnknown(name)
        if answer == "held":
            return self.version(name, int(held[0])), False
        return (version, True) if answer == "added" else None

    def version(self, adapter: str, number: int) -> Version:
        with self._redis.pipeline() as pipe:
            pipe.exists(self._keys.adapter(adapter))
            pipe.hget(self._keys.versions(adapter), str(number))
            pipe.sismember(self._keys.retired(adapter), str(number))
            exists, record, retired = pipe.execute()
        if not exists:
            raise AdapterUnknown(adapter)
        if record is None:
            raise VersionUnknown(adapter, number)
        return _version(record, bool(retired))

    def version_of(self, adapter: str, digest: str) -> Version | None:
        with self._redis.pipeline() as pipe:
            pipe.exists(self._keys.adapter(adapter))
            pipe.hget(self._keys.digests(adapter), digest)
            exists, number = pipe.execute()
        if not exists:
            raise AdapterUnknown(adapter)
        return None if number is None else self.version(adapter, int(number))

    def versions(self, adapter: str, limit: int | None = None, before: int | None = None) -> list[Version]:
        count = self._redis.hget(self._keys.adapter(adapter), "versions")
        if count is None:
            raise AdapterUnknown(adapter)
        top = int(count) if before is None else min(int(count), before - 1)
        found: list[Version] = []
        # Numbers are dense, but for those that an accepted, older Redis lost: they are skipped.
        while top > 0 and (limit is None or len(found) < limit):
            size = min(top, _PAGE, _PAGE if limit is None else limit - len(found))
            found += self._numbered_versions(adapter, range(top, top - size, -1))
            top -= size
        return found

    def _numbered_versions(self, adapter: str, numbers: range) -> list[Version]:
        names = [str(number) for number in numbers]
        with self._redis.pipeline() as pipe:
            pipe.hmget(self._keys.versions(adapter), names)
            pipe.smismember(self._keys.retired(adapter), names)
            records, retired = pipe.execute()
        return [_version(record, bool(gone)) for record, gone in zip(records, retired, strict=True) if record]

    def newest(self, limit: int) -> dict[str, list[int]]:
        counts = [(name, int(count)) for name, count in self._each("adapter->versions")]
        found: dict[str, list[int]] = {}
        for start in range(0, len(counts), _PAGE):
            part = counts[start : start + _PAGE]
            with self._redis.pipeline() as pipe:
                for name, count in part:
                    pipe.hlen(self._keys.versions(name))
                    pipe.smismember(self._keys.retired(name), [str(count - place) for place in range(limit)])
                answers = pipe.execute()
            for (name, count), held, retired in zip(part, answers[::2], answers[1::2], strict=True):
                if held < count:  # an accepted, older Redis lost some: only a look at the records tells which
                    found[name] = [version.version for version in self.versions(name, limit) if not version.retired]
                else:
                    found[name] = [count - place for place, gone in enumerate(retired) if not gone and count > place]
        return found

    def rollout(self, adapter: str, operation_id: str = "") -> Seen:
        with self._redis.pipeline() as pipe:
            pipe.hmget(self._keys.rollout(adapter), "record", "policy")
            pipe.get(self._keys.operation(adapter, operation_id))
            (record, policy), answered = pipe.execute()
        if record is None:
            raise AdapterUnknown(adapter)
        return Seen(
            Rollout.model_validate_json(record),
            _answered(answered) if answered else None,
            Policy.model_validate_json(policy) if policy else Policy(),
        )

    def policies(self) -> dict[str, Policy]:
        return {name: Policy.model_validate_json(policy) for name, policy in self._each("rollout->policy")}

    def move(
        self,
        after: Answered,
        event: Event,
        *,
        operation_id: str,
        pins: int | None = None,
        retires: int | None = None,
        policy: Policy | None = None,
    ) -> Answered:
        rollout = after.rollout
        name, keys = rollout.adapter, self._keys
        answer, *held = self._move(
            keys=[
                keys.adapter(name),
                keys.rollout(name),
                keys.versions(name),
                keys.retired(name),
                keys.history(name),
                keys.operation(name, operation_id),
                keys.moves(name),
                keys.moves_made,
            ],
            args=[
                rollout.revision - 1,
                rollout.revision,
                rollout.model_dump_json(),
                event.model_dump_json(),
                after.model_dump_json(),
                OPERATION_SECONDS,
                name,
                keys.changes,
                microseconds(event.at),
                "" if policy is None else policy.model_dump_json(),
                *("" if number is None else number for number in (rollout.champion, rollout.challenger, pins, retires)),
            ],
        )
        if answer == "moved":
            return after
        if answer == "answered":
            return _answered(held[0])
        if answer == "retired_before":
            return Answered(asked=after.asked, rollout=Rollout.model_validate_json(held[0]))
        if answer == "stale":
            raise moved(rollout, Rollout.model_validate_json(held[0]))
        if answer == "no_version":
            raise VersionUnknown(name, int(held[0]))
        if answer == "retired":
            raise VersionRetired(name, int(held[0]))
        raise AdapterUnknown(name)

    def history(self, adapter: str, limit: int, before: int | None) -> list[Event]:
        with self._redis.pipeline() as pipe:
            pipe.exists(self._keys.adapter(adapter))
            pipe.xrevrange(self._keys.history(adapter), max="+" if before is None else max(0, before - 1), count=limit)
            exists, entries = pipe.execute()
        if not exists:
            raise AdapterUnknown(adapter)
        return [_numbered(place, fields) for place, fields in entries]

    def move_at(self, adapter: str, at: datetime) -> Event | None:
        with self._redis.pipeline() as pipe:
            pipe.exists(self._keys.adapter(adapter))
            pipe.zrevrangebyscore(self._keys.moves(adapter), microseconds(at), "-inf", start=0, num=1)
            exists, numbers = pipe.execute()
        if not exists:
            raise AdapterUnknown(adapter)
        if not numbers:
            return None
        place = f"{int(numbers[0])}-0"
        entries: Any = self._redis.xrange(self._keys.history(adapter), min=place, max=place)
        return _numbered(*entries[0]) if entries else None

    def changes(self, timeout: float) -> Iterator[str | None]:
        while True:
            with suppress(RedisError, RegistryDown, OSError), self._redis.pubsub() as heard:
                heard.subscribe(self._keys.changes)
                while True:
                    message = heard.get_message(timeout=timeout)
                    if message is None:
                        yield None
                    elif message["type"] == "message":
                        yield message["data"]
            time.sleep(min(timeout, 1.0))
            yield None

    def _each(self, *fields: str) -> list[list[Any]]:
        """[name, field, ...] of every adapter, by name, in one round trip (SORT joins the index with the records)."""
        patterns = [self._keys.of("*", field) for field in fields]
        rows: Any = self._redis.sort(self._keys.adapters, alpha=True, get=["#", *patterns], groups=True)
        return [list(row) for row in rows if None not in row]


def _adapter(name: str, at: Any, by: str, versions: Any, rollout: str) -> Adapter:
    return Adapter(
        name=name, created_at=at, created_by=by, versions=versions, rollout=Rollout.model_validate_json(rollout)
    )


def _numbered(place: str, fields: dict[str, str]) -> Event:
    return Event.model_validate_json(fields["event"]).model_copy(update={"number": int(place.partition("-")[0])})


def _answered(kept: str) -> Answered:
    """An answer of before moves were told apart is the bare rollout."""
    answer = json.loads(kept)
    return Answered.model_validate(answer if "rollout" in answer else {"rollout": answer})


def microseconds(at: datetime) -> int:
    """Since 1970; exact, and below 2**53, so a score keeps it."""
    return (at - _EPOCH) // timedelta(microseconds=1)


def _version(record: str, retired: bool) -> Version:
    version = Version.model_validate_json(record)
    return version.model_copy(update={"retired": True}) if retired else version
