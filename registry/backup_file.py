"""A backup as one tar: records as lines of JSON by kind, weights under their digests, and a manifest that names it all.

::

    records/adapters.jsonl ...                       lines of registry/backup_records.py
    artifacts/sha256/ab/cd/abcd.../adapter_config.json, adapter_model.safetensors
    artifacts/sha256/01/23/0123....json
    manifest.json                                    last: a file that ends too early has none

Prompts, answers and the hashes of API keys are in it, so only its owner may read it. Nothing in it is believed: names are
compared with the manifest's, every byte with its sha256, every artifact with its digest, before anything is used.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from pydantic import Field, ValidationError

from registry.backup_records import KINDS, Line
from registry.errors import BackupDamaged, BadInput, RecordNewer
from registry.peft_bytes import CONFIG, TENSORS, digest_of, parts_of
from registry.record import SCHEMA, Record, check_schema

FORMAT = 1
"""The newest layout of the tar that this code reads."""
MANIFEST = "manifest.json"
_LARGEST_MANIFEST = 256 << 20
_CHUNK = 1 << 20


class Manifest(Record):
    """What a backup holds. ``revisions``, ``events``, ``feedback``: by adapter, how far it was; ``damaged``: versions whose
    bytes were missing or damaged already, by digest; ``schema_number``: the newest of any record in it."""

    format: int
    created_at: datetime
    namespace: str
    counts: dict[str, int]
    revisions: dict[str, int]
    events: dict[str, int]
    feedback: dict[str, int]
    versions: dict[str, int]
    sha256: dict[str, str]
    artifacts: tuple[str, ...]
    damaged: tuple[str, ...] = ()
    schema_number: int = Field(default=SCHEMA)


def records_of(kind: str) -> str:
    return f"records/{kind}.jsonl"


def members_of(digest: str) -> tuple[tuple[str, str], str]:
    """The names of an adapter's two files, and of a JSON value, under a digest."""
    path = "/".join(("artifacts", *parts_of(digest)))
    return (f"{path}/{CONFIG}", f"{path}/{TENSORS}"), f"{path}.json"


class BackupFile:
    """A backup to be read. ``BackupDamaged`` and ``RecordNewer`` from ``opened`` and ``verify``; after ``verify`` the rest
    may be believed."""

    def __init__(self, path: Path, tar: tarfile.TarFile) -> None:
        self.path, self._tar = path, tar
        self._members = {member.name: member for member in tar.getmembers() if member.isreg()}
        self.manifest = self._manifest()

    @classmethod
    @contextmanager
    def opened(cls, path: Path) -> Iterator[BackupFile]:
        try:
            with tarfile.open(path, "r:") as tar:
                yield cls(path, tar)
        except FileNotFoundError as error:
            raise BackupDamaged(path.name, "there is no such file") from error
        except (tarfile.TarError, EOFError, OSError) as error:
            raise BackupDamaged(path.name, f"it cannot be read ({error})") from error

    @property
    def size(self) -> int:
        return sum(member.size for member in self._members.values())

    def verify(self) -> Iterator[int]:
        """Reads every byte; yields how many at a time."""
        expected = set(self.manifest.sha256) | {MANIFEST}
        if len(self._tar.getmembers()) != len(expected) or set(self._members) != expected:
            raise BackupDamaged(self.path.name, "what it holds is not what its manifest names")
        needed = {name for digest in self.manifest.artifacts for name in self._names(digest)}
        if needed | {records_of(kind) for kind in KINDS} != set(self.manifest.sha256):
            raise BackupDamaged(self.path.name, "its manifest does not name what it must")
        for name, digest in self.manifest.sha256.items():
            found = hashlib.sha256()
            with self._open(name) as content:
                while chunk := content.read(_CHUNK):
                    found.update(chunk)
                    yield len(chunk)
            if found.hexdigest() != digest:
                raise BackupDamaged(self.path.name, f"the bytes of {name} are not those that were written")
        for digest in self.manifest.artifacts:
            if self._digest(digest) != digest:
                raise BackupDamaged(self.path.name, f"the bytes under {digest} do not match the digest")
        for kind in KINDS:
            for _ in self.lines(kind):
                pass

    def lines(self, kind: str) -> Iterator[Line]:
        with self._open(records_of(kind)) as content:
            for text in content:
                try:
                    yield Line.from_json(text)
                except ValueError as error:
                    raise BackupDamaged(self.path.name, f"a line of {records_of(kind)} cannot be read") from error

    def is_adapter(self, digest: str) -> bool:
        return members_of(digest)[1] not in self._members

    def json_of(self, digest: str) -> Any:
        with self._open(members_of(digest)[1]) as content:
            return json.loads(content.read())

    def extract(self, digest: str, folder: Path) -> None:
        """The two files of an adapter, into a folder."""
        for name in members_of(digest)[0]:
            with self._open(name) as content, (folder / name.rpartition("/")[2]).open("wb") as copy:
                while chunk := content.read(_CHUNK):
                    copy.write(chunk)

    def _names(self, digest: str) -> tuple[str, ...]:
        adapter, value = members_of(digest)
        return (value,) if value in self._members else adapter

    def _digest(self, digest: str) -> str:
        if not self.is_adapter(digest):
            return "sha256:" + self.manifest.sha256[members_of(digest)[1]]
        config, tensors = members_of(digest)[0]
        with self._open(config) as spelled, self._open(tensors) as content:
            try:
                return digest_of(spelled.read(), content)
            except (ValueError, RecursionError):
                return ""

    def _open(self, name: str) -> IO[bytes]:
        content = self._tar.extractfile(self._members[name]) if name in self._members else None
        if content is None:
            raise BackupDamaged(self.path.name, f"{name} is not in it: it ends too early, or is no backup")
        return content

    def _manifest(self) -> Manifest:
        with self._open(MANIFEST) as content:
            try:
                fields = json.loads(content.read(_LARGEST_MANIFEST))
                if isinstance(fields, dict) and isinstance(fields.get("format"), int) and fields["format"] > FORMAT:
                    raise RecordNewer("backup", schema=fields["format"], known=FORMAT)
                if isinstance(fields, dict):
                    check_schema("backup", fields.get("schema_number"))
                manifest = Manifest.model_validate(fields)
                for digest in manifest.artifacts:
                    parts_of(digest)
                return manifest
            except (ValidationError, BadInput, ValueError, RecursionError) as error:
                raise BackupDamaged(self.path.name, "its manifest cannot be read") from error


class BackupWriter:
    """A backup that is being written; it has its name only when it is whole."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self.sha256: dict[str, str] = {}

    def add(self, name: str, path: Path) -> None:
        with path.open("rb") as content:
            self.sha256[name] = hashlib.file_digest(content, "sha256").hexdigest()
        self._put(name, path)

    def close(self, manifest: Manifest, scratch: Path) -> None:
        written = scratch / MANIFEST
        written.write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
        self._put(MANIFEST, written)

    def _put(self, name: str, path: Path) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mode = path.stat().st_size, 0o600
        with path.open("rb") as content:
            self._tar.addfile(member, content)


_SCHEMA_NUMBER = re.compile(r'(?<!\\)"schema_number": ?(\d{1,9})')


def newest_schema(value: Any) -> int:
    """The highest schema number that the records in a line's value say; text that users wrote is escaped in them."""
    text = value if isinstance(value, str) else " ".join(_texts(value))
    return max((int(number) for number in _SCHEMA_NUMBER.findall(text)), default=0)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)
