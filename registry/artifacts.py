"""Content-addressed bytes: adapters as PEFT folders, and JSON values, kept in a place and read through a cache.

The digest of an adapter is defined in ``registry/peft_bytes.py``; of a JSON value it is taken over its canonical bytes.
How a place looks and how it is written: ``registry/place.py``; the copies of this machine: ``registry/cache.py``.

Reading is verified. Into the cache of this machine: always, every byte. From the cache: every byte the first time a
process asks, after that as long as size, times and inode of both files are unchanged. What does not match is dropped
and fetched anew; if the place itself is damaged, that is ``ArtifactMissing`` and nothing is served.
"""

from __future__ import annotations

import json
import shutil
import threading
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.cache import Cache
from registry.canonical import canonical, sha256
from registry.errors import ArtifactMissing, BadInput
from registry.peft_bytes import (
    CONFIG,
    TENSORS,
    digest_of_folder,
    drop,
    settle,
    size_of_folder,
    sync,
    write_synced,
)
from registry.place import Place, scratch_in

__all__ = ["CONFIG", "TENSORS", "Artifact", "ArtifactStore", "digest_of_folder"]


@dataclass(frozen=True, slots=True)
class Artifact:
    """Stored bytes: their name and how many they are."""

    digest: str
    size: int


class ArtifactStore:
    """Adapters and JSON values by digest. Safe for threads; several processes may share a place and a cache.

    ``announce`` is called with a digest before its bytes are looked for or put: from then on garbage collection leaves
    them alone (``registry/arrivals.py``). ``cache_bytes``: the bound of the cache, 0 for none.
    """

    def __init__(
        self,
        url: str,
        cache_dir: str | Path,
        *,
        cache_bytes: int = 0,
        announce: Callable[[str], None] = lambda digest: None,
    ) -> None:
        self.url = url
        self.place = Place(url)
        self.cache = Cache(Path(cache_dir), cache_bytes)
        self.announce = announce
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._verified: dict[str, tuple[Any, ...]] = {}

    def put_folder(self, folder: Path) -> Artifact:
        """Stores the adapter of a PEFT folder (its config and its tensors, nothing else). Repeated: no change.

        Whether it may be registered is the business of ``registry/inspection.py``; it is not asked here. What lies
        under the digest already is read: a damaged one is put again.
        """
        with scratch_in(Path(self.place.root) if self.place.local else self.cache.root) as scratch:
            write_synced(scratch / CONFIG, canonical(json.loads((folder / CONFIG).read_text("utf-8"))))
            shutil.copyfile(folder / TENSORS, scratch / TENSORS)
            sync(scratch / TENSORS)
            digest, size = digest_of_folder(scratch), size_of_folder(scratch)
            with self._locks[digest]:
                self.announce(digest)
                if self.place.actual(digest) != digest:
                    self.place.put_adapter(digest, scratch)
        return Artifact(digest, size)

    def fetch(self, digest: str) -> Path:
        """A verified PEFT folder on this machine, named by the digest. ``ArtifactMissing`` when there is none.

        It is held: no process takes it away to make room, until ``keep`` lets it go. Concurrent calls in one process
        copy once; of several processes one copy stays. Do not write into it.
        """
        cached = self.cache.path(digest)
        with self._locks[digest]:
            self.cache.hold(digest)
            there = cached.exists()  # asked first: a copy that another process settles after this is whole
            marks = _marks(cached)
            if marks and self._verified.get(digest) == marks:
                return cached
            if marks and digest_of_folder(cached) == digest:
                self._verified[digest] = marks
                return cached
            if there:
                drop(cached)
            try:
                self._download(digest, cached)
            except BaseException:
                self.cache.forget(digest)
                raise
            self._verified[digest] = _marks(cached)
        self.cache.make_room()
        return cached

    def keep(self, digests: Iterable[str]) -> None:
        """Says which fetched adapters this process still uses; see ``Cache.keep``."""
        self.cache.keep(digests)

    def export(self, digest: str, folder: Path) -> Path:
        """Copies an adapter into ``folder`` (made if missing), as ``peft`` loads it."""
        source = self.fetch(digest)
        folder.mkdir(parents=True, exist_ok=True)
        for name in (CONFIG, TENSORS):
            if (folder / name).exists():
                raise BadInput(f"'{folder / name}' exists already: export into an empty folder.", field="folder")
        for name in (CONFIG, TENSORS):
            shutil.copyfile(source / name, folder / name)
        return folder

    def has(self, digest: str) -> bool:
        """Whether the place holds the digest, as an adapter or as JSON. Its bytes are not read."""
        return self.place.has(digest)

    def put_json(self, value: Any) -> str:
        """Stores a JSON value under the digest of its canonical bytes. Repeated: no change."""
        content = canonical(value)
        digest = sha256(content)
        self.announce(digest)
        if self.place.actual(digest) != digest:
            self.place.put_json(digest, content)
        return digest

    def get_json(self, digest: str) -> Any:
        """The JSON value, verified. ``ArtifactMissing``."""
        content = self.place.get_json(digest)
        if sha256(content) != digest:
            raise ArtifactMissing(digest, f"its bytes in {self.url} do not match the digest")
        return json.loads(content)

    def _download(self, digest: str, cached: Path) -> None:
        arriving = cached.with_name(f"{cached.name}.{uuid.uuid4().hex}")
        arriving.mkdir(parents=True)
        try:
            self.place.get_adapter(digest, arriving)
            if digest_of_folder(arriving) != digest:
                raise ArtifactMissing(digest, f"its bytes in {self.url} do not match the digest")
            settle(arriving, cached)
        finally:
            shutil.rmtree(arriving, ignore_errors=True)


def _marks(folder: Path) -> tuple[Any, ...]:
    """What changes when somebody writes to a cached file; empty when one is missing."""
    try:
        stats = [(folder / name).stat() for name in (CONFIG, TENSORS)]
    except OSError:
        return ()
    return tuple((stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino) for stat in stats)
