"""Backup: everything that Redis and the place for weights keep, in one file. The way back: ``registry/restore.py``.

It talks to Redis and to the place directly, beside a running Shoal or without one.
"""

from __future__ import annotations

import os
import re
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from registry import backup_records
from registry.backup_file import FORMAT, BackupWriter, Manifest, members_of, newest_schema, records_of
from registry.backup_records import KINDS, Line
from registry.errors import ArtifactMissing, BackupRefused
from registry.keys import Keys
from registry.peft_bytes import digest_of_folder
from registry.records import SCHEMA, now
from registry.registry import Registry

Tell = Callable[[str, int, int], None]
"""Called with the step, how much of it is done and how much there is."""
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_OWN = re.compile(r'"digest":\s*"(sha256:[0-9a-f]{64})"')


def silent(step: str, done: int, total: int) -> None:
    pass


def back_up(registry: Registry, path: Path, *, allow_damaged: bool = False, tell: Tell = silent) -> Manifest:
    """Writes ``path``, which must not exist. ``BackupRefused``: a version's bytes are gone or damaged, or no room."""
    if path.exists():
        raise BackupRefused(f"'{path}' exists already: give a new file.")
    try:
        with tempfile.TemporaryDirectory(prefix=".shoal-backup-", dir=path.absolute().parent) as made:
            scratch = Path(made)
            whole = scratch / "backup.tar"
            whole.touch(mode=0o600)
            records = _Records(registry, scratch, tell)
            with tarfile.open(whole, "w", format=tarfile.PAX_FORMAT) as tar:
                writer = BackupWriter(tar)
                for kind in KINDS:
                    writer.add(records_of(kind), scratch / kind)
                kept, damaged = _weights(registry, records, writer, scratch, allow_damaged, tell)
                manifest = records.manifest(writer.sha256, kept, damaged)
                writer.close(manifest, scratch)
            with whole.open("rb") as content:
                os.fsync(content.fileno())
            os.link(whole, path)  # fails where somebody else made it meanwhile
    except OSError as error:
        raise BackupRefused(f"'{path}' cannot be written: {error.strerror or error}. Give another file.") from error
    return manifest


class _Records:
    """The records as files by kind under ``scratch``, and what was counted on the way."""

    def __init__(self, registry: Registry, scratch: Path, tell: Tell) -> None:
        self._namespace = registry.settings.namespace
        self.counts: Counter[str] = Counter(dict.fromkeys((*_COUNTED, "artifacts"), 0))
        self.by_adapter: dict[str, dict[str, int]] = {
            part: {} for part in ("revision", "events", "feedback", "versions")
        }
        self.schema = SCHEMA
        self.named: set[str] = set()
        self.versions: set[str] = set()
        files = {kind: (scratch / kind).open("w", encoding="utf-8") for kind in KINDS}
        lines = 0
        try:
            for kind, line in backup_records.read(registry.redis, Keys(self._namespace)):
                files[kind].write(line.to_json() + "\n")
                self._count(kind, line)
                lines += 1
                tell("records", lines, 0)
        finally:
            for file in files.values():
                file.close()

    def manifest(self, sha256: dict[str, str], kept: list[str], damaged: list[str]) -> Manifest:
        return Manifest(
            format=FORMAT,
            created_at=now(),
            namespace=self._namespace,
            counts=dict(self.counts) | {"artifacts": len(kept)},
            revisions=self.by_adapter["revision"],
            events=self.by_adapter["events"],
            feedback=self.by_adapter["feedback"],
            versions=self.by_adapter["versions"],
            sha256=sha256,
            artifacts=tuple(kept),
            damaged=tuple(damaged),
            schema_number=self.schema,
        )

    def _count(self, kind: str, line: Line) -> None:
        self.schema = max(self.schema, newest_schema(line.value))
        name, _, part = line.key.removeprefix("{").partition("}:")
        for counted, fits in _COUNTED.items():
            if fits(kind, line.key, part):
                self.counts[counted] += len(line.value) if isinstance(line.value, (dict, list)) else 1
        if kind == "adapters":
            if part == "rollout" and "revision" in line.value:
                self.by_adapter["revision"][name] = int(line.value["revision"])
            if part == "adapter":
                self.by_adapter["events"][name] = int(line.value["events"])
                self.by_adapter["versions"][name] = int(line.value["versions"])
                self.by_adapter["feedback"].setdefault(name, 0)
            if part == "versions":
                self.versions |= {digest for record in line.value.values() for digest in _OWN.findall(record)[:1]}
        if part == "feedback":
            self.by_adapter["feedback"][name] = self.by_adapter["feedback"].get(name, 0) + len(line.value)
        if kind not in ("feedback", "interactions"):
            self.named.update(_DIGEST.findall(line.to_json()))


_COUNTED: dict[str, Callable[[str, str, str], bool]] = {
    "adapters": lambda kind, key, part: key == "adapters",
    "versions": lambda kind, key, part: kind == "adapters" and part == "versions",
    "events": lambda kind, key, part: kind == "adapters" and part == "history",
    "operations": lambda kind, key, part: kind == "adapters" and part.startswith("operation:"),
    "feedback": lambda kind, key, part: kind == "feedback" and part == "feedback",
    "runs": lambda kind, key, part: key == "runs",
    "interactions": lambda kind, key, part: kind == "interactions",
    "keys": lambda kind, key, part: kind == "keys" and part == "records",
}


def _weights(
    registry: Registry, records: _Records, writer: BackupWriter, scratch: Path, allow_damaged: bool, tell: Tell
) -> tuple[list[str], list[str]]:
    """Adds the bytes of everything that a record names and the place holds; a version without its bytes is damaged."""
    place, kept, damaged = registry.artifacts.place, [], []
    wanted = sorted(records.named | records.versions)
    for number, digest in enumerate(wanted, start=1):
        tell("weights", number, len(wanted))
        found = place.actual(digest)
        if found != digest:
            # Of what is named elsewhere (a candidate that was never kept) the bytes need not be there.
            if found or digest in records.versions:
                damaged.append(digest)
            continue
        _add(registry, digest, writer, scratch)
        kept.append(digest)
    if damaged and not allow_damaged:
        raise BackupRefused(
            f"The bytes of {len(damaged)} artifacts are gone or damaged, the first is {damaged[0]}. `shoal artifacts check` "
            "says which versions name them. To back up the rest: --allow-damaged.",
            damaged=damaged,
        )
    return kept, damaged


def _add(registry: Registry, digest: str, writer: BackupWriter, scratch: Path) -> None:
    place, (adapter, value) = registry.artifacts.place, members_of(digest)
    try:
        content = place.get_json(digest)
    except ArtifactMissing:
        place.get_adapter(digest, scratch)
        if digest_of_folder(scratch) != digest:
            raise ArtifactMissing(digest, f"it changed in {registry.artifacts.url} while it was read") from None
        for name in adapter:
            writer.add(name, scratch / name.rpartition("/")[2])
            (scratch / name.rpartition("/")[2]).unlink()
        return
    (scratch / "value").write_bytes(content)
    writer.add(value, scratch / "value")
