"""Restore: records and weights as a backup has them.

It talks to Redis and to the place directly, so it works when no service starts. Every byte of the file is checked before
anything is touched; a place that is not empty is refused, and so is going back behind what was known. Weights come first
and the two indices last, of adapters and then of runs: nobody sees half of it, nor a run of an adapter that is not there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry import backup_records
from registry.backup import Tell, silent
from registry.backup_file import BackupFile, Manifest
from registry.backup_records import KINDS
from registry.errors import ArtifactMissing, TargetNotEmpty, WouldGoBack
from registry.keys import Keys
from registry.records import Rollout, now
from registry.registry import Registry
from registry.store import Reached
from registry.text import one_line

INDICES = ("adapters", "runs")  # each is a key, and the kind that holds its lines


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did. ``accepted``: rollouts that went back and got an event and a new revision;
    ``keys_kept``: the API keys that were there stayed, the backup's were left alone."""

    manifest: Manifest
    accepted: tuple[Rollout, ...]
    keys_kept: bool


def check(path: Path, tell: Tell = silent) -> Manifest:
    """Reads every byte of a backup and changes nothing. ``BackupDamaged``, ``RecordNewer``."""
    with _verified(path, tell) as backup:
        return backup.manifest


def restore(
    registry: Registry,
    path: Path,
    *,
    by: str,
    reason: str = "",
    into_existing: bool = False,
    accept_older: bool = False,
    tell: Tell = silent,
) -> Restored:
    """Makes records and weights as the backup has them.

    ``BackupDamaged``, ``RecordNewer``, ``TargetNotEmpty``, ``WouldGoBack``: nothing was changed. Interrupted, it is
    repeated with ``into_existing``; what was known before is remembered in Redis until it is through.
    """
    with _verified(path, tell) as backup:
        registry.ping()
        target = _Target(registry)
        if target.there and not into_existing:
            raise TargetNotEmpty(registry.settings.namespace)
        lost = target.ahead_of(backup.manifest)
        if lost and not accept_older:
            raise WouldGoBack(lost)
        _put_weights(registry, backup, tell)
        target.clear()
        _put_records(registry, backup, target.has_keys, tell)
        accepted: list[Rollout] = []
        if lost:
            registry.guard.remember({name: Reached(known, 0) for name, (known, _) in lost.items()})
            reason = reason or one_line(f"restored from {path.name}")
            accepted = registry.guard.accept(by=by, reason=reason, known=target.rollouts())
        target.forget()
        return Restored(backup.manifest, tuple(accepted), target.has_keys)


class _Target:
    """What is there before a restore: how far each adapter was, by records, heartbeats and an interrupted restore."""

    def __init__(self, registry: Registry) -> None:
        self._registry, self._keys = registry, Keys(registry.settings.namespace)
        self._redis: Any = registry.redis
        self._known_key = self._keys.restoring
        self.there = backup_records.present(registry.redis, self._keys)
        self.has_keys = "{:keys}:records" in self.there
        self._known: dict[str, dict[str, int]] = {}
        index: Any = self._redis.smembers(self._keys.adapters)
        for name in sorted(index):
            with self._redis.pipeline() as pipe:
                pipe.hget(self._keys.rollout(name), "revision")
                pipe.hmget(self._keys.adapter(name), "events", "versions")
                pipe.zcard(self._keys.feedback_order(name))
                revision, (events, versions), feedback = pipe.execute()
            if revision is not None:
                self._learn(name, int(revision), int(events or 0), feedback, int(versions or 0))
        for replica in registry.replicas.live():
            for name, revision in replica.revisions.items():
                self._learn(name, revision)
            for name, number in replica.highest.items():
                self._learn(name, versions=number)
        before: Any = self._redis.hgetall(self._known_key)
        for name, numbers in before.items():
            self._learn(name, *(int(number) for number in numbers.split()))

    def _learn(self, name: str, revision: int = -1, events: int = 0, feedback: int = 0, versions: int = 0) -> None:
        known = self._known.setdefault(name, dict.fromkeys(("revision", "events", "feedback", "versions"), -1))
        for part, number in (
            ("revision", revision),
            ("events", events),
            ("feedback", feedback),
            ("versions", versions),
        ):
            known[part] = max(known[part], number)

    def ahead_of(self, backup: Manifest) -> dict[str, tuple[int, int | None]]:
        """The adapters of which the target knows more: a revision above the backup's, and the backup's.

        Lost registrations and feedback leave the revision as it is: the one above is named then, so that they are
        accepted by an event, too.
        """
        lost: dict[str, tuple[int, int | None]] = {}
        for name, known in self._known.items():
            held = backup.revisions.get(name)
            less = any(known[part] > getattr(backup, part).get(name, 0) for part in ("events", "feedback", "versions"))
            if known["revision"] > (-1 if held is None else held):
                lost[name] = (known["revision"], held)
            elif less:
                lost[name] = (0 if held is None else held + 1, held)
        return lost

    def clear(self) -> None:
        """Takes the records away; what was known stays until ``forget``."""
        if self._known:
            told = {name: " ".join(str(number) for number in known.values()) for name, known in self._known.items()}
            self._redis.hset(self._known_key, mapping=told)
        backup_records.clear(self._registry.redis, self._keys, but="{:keys}:" if self.has_keys else "")

    def forget(self) -> None:
        self._redis.delete(self._known_key)

    def rollouts(self) -> Iterator[Rollout]:
        """The highest version number that was ever given, as a rollout that names it: it is not given again."""
        for name, known in self._known.items():
            if known["versions"] > 0:
                yield Rollout(adapter=name, revision=0, pins=(known["versions"],), moved_at=now())


@contextmanager
def _verified(path: Path, tell: Tell) -> Iterator[BackupFile]:
    with BackupFile.opened(path) as backup:
        done = 0
        for read in backup.verify():
            done += read
            tell("check", done, backup.size)
        yield backup


def _put_weights(registry: Registry, backup: BackupFile, tell: Tell) -> None:
    for number, digest in enumerate(backup.manifest.artifacts, start=1):
        tell("weights", number, len(backup.manifest.artifacts))
        if not backup.is_adapter(digest):
            put = registry.artifacts.put_json(backup.json_of(digest))
        else:
            with tempfile.TemporaryDirectory(prefix="shoal-restore-") as folder:
                backup.extract(digest, Path(folder))
                put = registry.artifacts.put_folder(Path(folder)).digest
        if put != digest:
            raise ArtifactMissing(digest, f"the backup's bytes became {put} in {registry.artifacts.url}")


def _put_records(registry: Registry, backup: BackupFile, keys_kept: bool, tell: Tell) -> None:
    """What lists adapters and runs comes last, in this order: until then nobody sees any of them."""
    keys = Keys(registry.settings.namespace)
    for number, kind in enumerate(KINDS, start=1):
        tell("records", number, len(KINDS))
        if kind == "keys" and keys_kept:
            continue  # a key that was revoked since the backup must not open anything again
        _write(registry, keys, backup, kind, lambda key: key not in INDICES)
        if kind == "keys" and registry.redis.exists(keys.of(":keys", "records")):
            registry.redis.incr(keys.of(":keys", "revision"))  # services that cached another table read this one
    for index in INDICES:
        _write(registry, keys, backup, index, index.__eq__)
    registry.redis.incr(keys.moves_made)  # every replica looks at all of it, whatever it had counted
    for name in backup.manifest.revisions:
        registry.redis.publish(keys.changes, name)


def _write(registry: Registry, keys: Keys, backup: BackupFile, kind: str, wanted: Callable[[str], bool]) -> None:
    lines = (line for line in backup.lines(kind) if wanted(line.key))
    backup_records.write(registry.redis, keys, lines)
