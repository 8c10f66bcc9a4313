"""Content-addressed bytes in any fsspec place: adapters as PEFT folders, and JSON values.

A digest is ``sha256:`` and 64 hex digits. Of an adapter it is taken over, in this order: ``shoal adapter 1\\n``; the
length in bytes of the canonical ``adapter_config.json`` (sorted keys, no spaces, UTF-8) as decimal digits and ``\\n``;
that config; the bytes of ``adapter_model.safetensors`` as they are. Of a JSON value: over its canonical bytes.

A place looks like this, and a path is made from a digest only, never from a name that a caller chose::

    sha256/ab/cd/abcd...   /adapter_config.json  /adapter_model.safetensors
    sha256/01/23/0123....json

Writing to a local disk goes to a temporary name, is synced and renamed. Elsewhere (``s3://`` and the like) single
objects appear whole or not at all, so the tensors are put first and the config last: an adapter is there when its
config is.

Reading is verified. Into the cache of this machine: always, every byte. From the cache: every byte the first time a
process asks, after that as long as size, times and inode of both files are unchanged. What does not match is dropped
and fetched anew; if the place itself is damaged, that is ``ArtifactMissing`` and nothing is served.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import threading
import uuid
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from registry.canonical import canonical, sha256
from registry.errors import ArtifactMissing, BadInput

CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Artifact:
    """Stored bytes: their name and how many they are."""

    digest: str
    size: int


class ArtifactStore:
    """Adapters and JSON values by digest. Safe for threads; several processes may share a place and a cache."""

    def __init__(self, url: str, cache_dir: str | Path) -> None:
        self.url = url
        self._fs, root = fsspec.core.url_to_fs(url)
        self._root = str(root).rstrip("/")
        self._local = isinstance(self._fs, LocalFileSystem)
        self._cache = Path(cache_dir).resolve()
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._verified: dict[str, tuple[Any, ...]] = {}

    def put_folder(self, folder: Path) -> Artifact:
        """Stores the adapter of a PEFT folder (its config and its tensors, nothing else). Repeated: no change.

        Whether it may be registered is the business of ``registry/inspection.py``; it is not asked here.
        """
        with self._scratch() as scratch:
            config = canonical(json.loads((folder / CONFIG).read_text("utf-8")))
            _write(scratch / CONFIG, config)
            shutil.copyfile(folder / TENSORS, scratch / TENSORS)
            _sync(scratch / TENSORS)
            digest, size = digest_of_folder(scratch), _size(scratch)
            with self._locks[digest]:
                if not self._whole(digest, scratch):
                    self._put(scratch, digest)
        return Artifact(digest, size)

    def fetch(self, digest: str) -> Path:
        """A verified PEFT folder on this machine, named by the digest. ``ArtifactMissing`` when there is none.

        Concurrent calls in one process copy once; of several processes one copy stays. Do not write into it.
        """
        cached = self._cache.joinpath(*_parts(digest))
        with self._locks[digest]:
            marks = _marks(cached)
            if marks and self._verified.get(digest) == marks:
                return cached
            if marks and digest_of_folder(cached) == digest:
                self._verified[digest] = marks
                return cached
            if cached.exists():
                _drop(cached)
            self._download(digest, cached)
            self._verified[digest] = _marks(cached)
            return cached

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
        path = self._path(digest)
        return bool(self._fs.exists(f"{path}/{CONFIG}") or self._fs.exists(f"{path}.json"))

    def put_json(self, value: Any) -> str:
        """Stores a JSON value under the digest of its canonical bytes. Repeated: no change."""
        content = canonical(value)
        digest = sha256(content)
        path = f"{self._path(digest)}.json"
        if not self._fs.exists(path) or self._fs.size(path) != len(content):
            if self._local:
                with self._scratch() as scratch:
                    _write(scratch / "value", content)
                    Path(path).parent.mkdir(parents=True, exist_ok=True)
                    (scratch / "value").replace(path)
                    _sync(Path(path).parent)
            else:
                self._fs.pipe_file(path, content)
        return digest

    def get_json(self, digest: str) -> Any:
        """The JSON value, verified. ``ArtifactMissing``."""
        try:
            content: bytes = self._fs.cat_file(f"{self._path(digest)}.json")
        except FileNotFoundError as error:
            raise ArtifactMissing(digest, f"{self.url} does not hold it") from error
        except OSError as error:
            raise ArtifactMissing(digest, str(error)) from error
        if sha256(content) != digest:
            raise ArtifactMissing(digest, f"its bytes in {self.url} do not match the digest")
        return json.loads(content)

    def _path(self, digest: str) -> str:
        return "/".join((self._root, *_parts(digest)))

    def _whole(self, digest: str, scratch: Path) -> bool:
        """Whether the place holds the adapter already; a damaged one is put again (remote: one of another size)."""
        path = self._path(digest)
        if self._local:
            return digest_of_folder(Path(path)) == digest
        with contextlib.suppress(FileNotFoundError):
            return all(self._fs.size(f"{path}/{name}") == (scratch / name).stat().st_size for name in (CONFIG, TENSORS))
        return False

    def _put(self, scratch: Path, digest: str) -> None:
        path = self._path(digest)
        if not self._local:
            for name in (TENSORS, CONFIG):
                self._fs.put_file(str(scratch / name), f"{path}/{name}")
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        if Path(path).exists():
            if digest_of_folder(Path(path)) == digest:
                return  # another process was faster: what is whole is never taken away, not even for a moment
            _drop(Path(path))
        _settle(scratch, Path(path))

    def _download(self, digest: str, cached: Path) -> None:
        path = self._path(digest)
        cached.parent.mkdir(parents=True, exist_ok=True)
        arriving = cached.with_name(f"{cached.name}.{uuid.uuid4().hex}")
        arriving.mkdir()
        try:
            for name in (CONFIG, TENSORS):
                self._fs.get_file(f"{path}/{name}", str(arriving / name))
                _sync(arriving / name)
            if digest_of_folder(arriving) != digest:
                raise ArtifactMissing(digest, f"its bytes in {self.url} do not match the digest")
            _settle(arriving, cached)
        except FileNotFoundError as error:
            raise ArtifactMissing(digest, f"{self.url} does not hold it") from error
        except OSError as error:
            raise ArtifactMissing(digest, str(error)) from error
        finally:
            shutil.rmtree(arriving, ignore_errors=True)

    @contextlib.contextmanager
    def _scratch(self) -> Iterator[Path]:
        """A folder to write in, on the same disk as the place (or, for a remote one, as the cache)."""
        root = Path(self._root) if self._local else self._cache
        scratch = root / "arriving" / uuid.uuid4().hex
        scratch.mkdir(parents=True)
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def digest_of_folder(folder: Path) -> str:
    """The digest of the adapter in a PEFT folder, as the head of this file defines it. ``""``: it cannot be read."""
    try:
        config = canonical(json.loads((folder / CONFIG).read_text("utf-8")))
        total = hashlib.sha256(b"shoal adapter 1\n%d\n" % len(config) + config)
        with (folder / TENSORS).open("rb") as tensors:
            while chunk := tensors.read(_CHUNK):
                total.update(chunk)
    except (OSError, ValueError):
        return ""
    return f"sha256:{total.hexdigest()}"


def _parts(digest: str) -> tuple[str, str, str, str]:
    found = _DIGEST.fullmatch(digest)
    if not found:
        raise BadInput(f"'{digest[:80]}' is not a digest: 'sha256:' and 64 hex digits.", field="digest")
    name = found[1]
    return "sha256", name[:2], name[2:4], name


def _size(folder: Path) -> int:
    return sum((folder / name).stat().st_size for name in (CONFIG, TENSORS))


def _marks(folder: Path) -> tuple[Any, ...]:
    """What changes when somebody writes to a cached file; empty when one is missing."""
    try:
        stats = [(folder / name).stat() for name in (CONFIG, TENSORS)]
    except OSError:
        return ()
    return tuple((stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino) for stat in stats)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _settle(arriving: Path, final: Path) -> None:
    """Gives a written folder its name in one step; if another process was faster, its copy stays."""
    _sync(arriving)
    try:
        arriving.rename(final)
    except OSError:
        if not final.exists():
            raise
    _sync(final.parent)


def _drop(folder: Path) -> None:
    """Takes a folder out of its name in one step, then deletes it."""
    aside = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}")
    with contextlib.suppress(FileNotFoundError):
        folder.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)
