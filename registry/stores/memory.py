"""The store in this process's memory: for tests and for a search without servers. Same guarantees as Redis."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from registry.errors import AdapterUnknown, RolloutMoved, VersionRetired, VersionUnknown
from registry.records import Adapter, Event, Rollout, Version


@dataclass
class _Line:
    """Everything one adapter has."""

    rollout: Rollout
    created: Event
    versions: dict[int, Version] = field(default_factory=dict)
    digests: dict[str, int] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    operations: dict[str, Rollout] = field(default_factory=dict)


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

    def adapters(self) -> list[Adapter]:
        with self._lock:
            return [self.adapter(name) for name in sorted(self._lines)]

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

    def revisions(self) -> dict[str, int]:
        with self._lock:
            return {name: line.rollout.revision for name, line in sorted(self._lines.items())}

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

    def versions(self, adapter: str) -> list[Version]:
        with self._lock:
            return list(reversed(self._line(adapter).versions.values()))

    def rollout(self, adapter: str, operation_id: str = "") -> tuple[Rollout, Rollout | None]:
        with self._lock:
            line = self._line(adapter)
            return line.rollout, line.operations.get(operation_id)

    def move(self, after: Rollout, event: Event, *, operation_id: str, retires: int | None = None) -> Rollout:
        with self._lock:
            line = self._line(after.adapter)
            if operation_id in line.operations:
                return line.operations[operation_id]
            if retires is not None and retires in line.versions and line.versions[retires].retired:
                return line.rollout
            if line.rollout.revision != after.revision - 1:
                raise moved(after, line.rollout)
            for number in (after.champion, after.challenger):
                if number is not None and self.version(after.adapter, number).retired:
                    raise VersionRetired(after.adapter, number)
            if retires is not None:
                line.versions[retires] = self.version(after.adapter, retires).model_copy(update={"retired": True})
            line.rollout = line.operations[operation_id] = after
            self._record(line, event)
            return after

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
        line.events.append(event.model_copy(update={"number": len(line.events) + 1}))
        for heard in self._listeners:
            heard.put(event.adapter)


def moved(after: Rollout, now: Rollout) -> RolloutMoved:
    """The refusal of a move that was decided on an older rollout than ``now``."""
    return RolloutMoved(
        after.adapter, expected=after.revision - 1, actual=now.revision, rollout=now.model_dump(mode="json")
    )
