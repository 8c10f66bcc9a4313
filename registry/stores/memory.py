"""The store in this process's memory: for tests and for a search without servers. Same guarantees as Redis."""

from __future__ import annotations

import queue
import threading
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from registry.errors import AdapterUnknown, RolloutMoved, VersionRetired, VersionUnknown
from registry.policy import Policy
from registry.records import Adapter, Event, Rollout, Version
from registry.store import Answered, Reached, Seen


@dataclass
class _Line:
    """Everything one adapter has."""

    rollout: Rollout
    created: Event
    versions: dict[int, Version] = field(default_factory=dict)
    digests: dict[str, int] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    moves: list[Event] = field(default_factory=list)
    operations: dict[str, Answered] = field(default_factory=dict)
    policy: Policy | None = None


class MemoryStore:
    """A ``Store``; every change happens under one lock."""

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}
        self._lock = threading.RLock()
        self._listeners: list[queue.SimpleQueue[str]] = []

    def ping(self) -> None:
        return None

    def create(self, rollout: Rollout, event: Event) -> bool:
        with self._lock:
            if rollout.adapter in self._lines:
                return False
            self._lines[rollout.adapter] = line = _Line(rollout, event)
            self._record(line, event)
            return True

    def adapters(self, limit: int | None = None, after: str = "") -> list[Adapter]:
        with self._lock:
            return [self.adapter(name) for name in sorted(self._lines) if name > after][:limit]

    def adapter(self, name: str) -> Adapter:
        with self._lock:
            line = self._line(name)
            return Adapter(
                name=name,
                created_at=line.created.at,
                created_by=line.created.by,
                versions=len(line.versions),
                rollout=line.rollout,
            )

    def reached(self) -> dict[str, Reached]:
        with self._lock:
            lines = sorted(self._lines.items())
            return {name: Reached(line.rollout.revision, len(line.versions)) for name, line in lines}

    def moves_made(self) -> int:
        with self._lock:
            return sum(1 + line.rollout.revision for line in self._lines.values())

    def add_version(self, version: Version, event: Event) -> tuple[Version, bool] | None:
        with self._lock:
            line = self._line(version.adapter)
            if version.digest in line.digests:
                return line.versions[line.digests[version.digest]], False
            if version.version != len(line.versions) + 1:
                return None
            line.versions[version.version] = version
            line.digests[version.digest] = version.version
            self._record(line, event)
            return version, True

    def version(self, adapter: str, number: int) -> Version:
        with self._lock:
            line = self._line(adapter)
            if number not in line.versions:
                raise VersionUnknown(adapter, number)
            return line.versions[number]

    def version_of(self, adapter: str, digest: str) -> Version | None:
        with self._lock:
            line = self._line(adapter)
            return line.versions.get(line.digests.get(digest, 0))

    def versions(self, adapter: str, limit: int | None = None, before: int | None = None) -> list[Version]:
        with self._lock:
            versions = self._line(adapter).versions
            top = len(versions) if before is None else min(before - 1, len(versions))
            return [versions[number] for number in range(top, 0, -1)][:limit]

    def newest(self, limit: int) -> dict[str, list[int]]:
        with self._lock:
            return {
                name: [v.version for v in self.versions(name, limit) if not v.retired] for name in sorted(self._lines)
            }

    def rollout(self, adapter: str, operation_id: str = "") -> Seen:
        with self._lock:
            line = self._line(adapter)
            return Seen(line.rollout, line.operations.get(operation_id), line.policy or Policy())

    def policies(self) -> dict[str, Policy]:
        with self._lock:
            return {name: line.policy for name, line in sorted(self._lines.items()) if line.policy is not None}

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
        with self._lock:
            rollout = after.rollout
            name, line = rollout.adapter, self._line(rollout.adapter)
            if operation_id in line.operations:
                return line.operations[operation_id]
            if retires is not None and retires in line.versions and line.versions[retires].retired:
                return Answered(asked=after.asked, rollout=line.rollout)
            if line.rollout.revision != rollout.revision - 1:
                raise moved(rollout, line.rollout)
            for number in (rollout.champion, rollout.challenger, pins):
                if number is not None and self.version(name, number).retired:
                    raise VersionRetired(name, number)
            if retires is not None:
                line.versions[retires] = self.version(name, retires).model_copy(update={"retired": True})
            line.rollout, line.policy = rollout, policy or line.policy
            line.operations[operation_id] = after
            self._record(line, event)
            return after

    def move_at(self, adapter: str, at: datetime) -> Event | None:
        with self._lock:
            moves = self._line(adapter).moves
            place = bisect_right(moves, at, key=lambda event: event.at)
            return moves[place - 1] if place else None

    def history(self, adapter: str, limit: int, before: int | None) -> list[Event]:
        with self._lock:
            events = self._line(adapter).events
            return events[: len(events) if before is None else max(0, before - 1)][::-1][:limit]

    def changes(self, timeout: float) -> Iterator[str | None]:
        heard: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._listeners.append(heard)
        try:
            while True:
                try:
                    yield heard.get(timeout=timeout)
                except queue.Empty:
                    yield None
        finally:
            self._listeners.remove(heard)

    def _line(self, adapter: str) -> _Line:
        if adapter not in self._lines:
            raise AdapterUnknown(adapter)
        return self._lines[adapter]

    def _record(self, line: _Line, event: Event) -> None:
        numbered = event.model_copy(update={"number": len(line.events) + 1})
        line.events.append(numbered)
        if event.live is not None:
            line.moves.append(numbered)
        for heard in self._listeners:
            heard.put(event.adapter)


def moved(after: Rollout, now: Rollout) -> RolloutMoved:
    """The refusal of a move that was decided on an older rollout than ``now``."""
    return RolloutMoved(
        after.adapter, expected=after.revision - 1, actual=now.revision, rollout=now.model_dump(mode="json")
    )
