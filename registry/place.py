"""The place where weights lie: any fsspec URL, every object under its digest.

A place looks like this, and a path is made from a digest only, never from a name that a caller chose::

    sha256/ab/cd/abcd...   /adapter_config.json  /adapter_model.safetensors
    sha256/01/23/0123....json
    arriving/              what is being written (a local place only)

Writing to a local disk goes to a temporary name, is synced and renamed. Elsewhere (``s3://`` and the like) single
objects appear whole or not at all, so the tensors are put first and the config last: an adapter is there when both are.
Nothing here is served: whoever reads verifies.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import uuid
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from registry.canonical import sha256
from registry.errors import ArtifactMissing, ArtifactsDown, ShoalError
from registry.peft_bytes import CONFIG, TENSORS, digest_of, drop, parts_of, settle, sync, write_synced

_NAMED = re.compile(r"sha256/[0-9a-f]{2}/[0-9a-f]{2}/([0-9a-f]{64})(\.json|/.+)$")
_NOT_THERE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


@dataclass(frozen=True, slots=True)
class Stored:
    """What lies under one digest: how many bytes, and when the last of them was written (seconds, as the place says)."""

    digest: str
    size: int
    at: float


class Place:
    """Objects by digest. Only errors of ``registry/errors.py`` leave it. Safe for threads and across a fork."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._opened: tuple[int, Any] = (0, None)
        _, root = self._open()
        self.root = str(root).rstrip("/")
        self.local = isinstance(self.fs, LocalFileSystem)

    @property
    def fs(self) -> Any:
        """The file system; opened again in a forked child, as the connections of its parent are not its own."""
        pid, fs = self._opened
        return fs if pid == os.getpid() else self._open()[0]

    def _open(self) -> tuple[Any, str]:
        try:
            # Without listings: another process's object must be seen at once, and a listing is never needed twice.
            fs, root = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise ArtifactsDown(self.url, f"{error}. Check SHOAL_ARTIFACTS_URL") from error
        self._opened = (os.getpid(), fs)
        return fs, root

    def path(self, digest: str) -> str:
        return "/".join((self.root, *parts_of(digest)))

    def has(self, digest: str) -> bool:
        """Whether it holds the digest, as an adapter or as JSON. Its bytes are not read."""
        path = self.path(digest)
        with self._answering(digest):
            adapter = self.fs.exists(f"{path}/{CONFIG}") and self.fs.exists(f"{path}/{TENSORS}")
            return bool(adapter or self.fs.exists(f"{path}.json"))
        return False

    def actual(self, digest: str) -> str:
        """The digest of what lies under ``digest``, every byte read; ``""``: nothing whole. Equal means undamaged."""
        path = self.path(digest)
        with self._answering(digest):
            with contextlib.suppress(*_NOT_THERE):
                return sha256(self.fs.cat_file(f"{path}.json"))
            with contextlib.suppress(*_NOT_THERE, ValueError, RecursionError):
                config = self.fs.cat_file(f"{path}/{CONFIG}")
                with self.fs.open(f"{path}/{TENSORS}", "rb") as tensors:
                    return digest_of(config, tensors)
        return ""

    def put_adapter(self, digest: str, folder: Path) -> None:
        """Puts the two files of ``folder``, which is in ``scratch`` and may be moved away; what is there is replaced."""
        path = self.path(digest)
        with self._answering(digest):
            if not self.local:
                for name in (TENSORS, CONFIG):
                    self.fs.put_file(str(folder / name), f"{path}/{name}")
                return
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            if Path(path).exists():
                if self.actual(digest) == digest:
                    return  # another process was faster: what is whole is never taken away, not even for a moment
                drop(Path(path))
            settle(folder, Path(path))

    def get_adapter(self, digest: str, folder: Path) -> None:
        """Copies the two files into ``folder``, not verified. ``ArtifactMissing``."""
        with self._answering(digest):
            for name in (CONFIG, TENSORS):
                self.fs.get_file(f"{self.path(digest)}/{name}", str(folder / name))
                sync(folder / name)

    def put_json(self, digest: str, content: bytes) -> None:
        path = f"{self.path(digest)}.json"
        with self._answering(digest):
            if not self.local:
                self.fs.pipe_file(path, content)
                return
            with scratch_in(Path(self.root)) as scratch:
                write_synced(scratch / "value", content)
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                (scratch / "value").replace(path)
                sync(Path(path).parent)

    def get_json(self, digest: str) -> bytes:
        """The bytes of a JSON value, not verified. ``ArtifactMissing``."""
        content = io.BytesIO()
        with self._answering(digest):
            content.write(self.fs.cat_file(f"{self.path(digest)}.json"))
        return content.getvalue()

    def listing(self) -> list[Stored]:
        """Everything that lies under a digest, whole or not, by digest."""
        found: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
        with self._answering(""), contextlib.suppress(*_NOT_THERE):
            for path, facts in self.fs.find(f"{self.root}/sha256", detail=True).items():
                if named := _NAMED.search(str(path)):
                    found[f"sha256:{named[1]}"].append((int(facts.get("size") or 0), _written_at(facts)))
        return [
            Stored(digest, sum(size for size, _ in files), max(at for _, at in files))
            for digest, files in sorted(found.items())
        ]

    def delete(self, digest: str) -> None:
        """Deletes what lies under the digest; of an adapter the config first, so that it is gone at once."""
        path = self.path(digest)
        with self._answering(digest):
            if self.local:
                drop(Path(path))
                Path(f"{path}.json").unlink(missing_ok=True)
                return
            for name in (f"{path}/{CONFIG}", f"{path}/{TENSORS}", f"{path}.json"):
                with contextlib.suppress(*_NOT_THERE):
                    self.fs.rm_file(name)

    @contextlib.contextmanager
    def _answering(self, digest: str) -> Iterator[None]:
        """No foreign error leaves: what is not there is ``ArtifactMissing``, a place that fails is ``ArtifactsDown``."""
        try:
            yield
        except ShoalError:
            raise
        except _NOT_THERE as error:
            raise ArtifactMissing(digest, f"{self.url} does not hold it") from error
        except Exception as error:
            # botocore, aiohttp and the rest each have a tree of their own.
            raise ArtifactsDown(self.url, f"{type(error).__name__}: {error}") from error


@contextlib.contextmanager
def scratch_in(root: Path) -> Iterator[Path]:
    """A folder to write in, on the same disk as ``root``; gone afterwards."""
    scratch = root / "arriving" / uuid.uuid4().hex
    scratch.mkdir(parents=True)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _written_at(facts: dict[str, Any]) -> float:
    """When an object was written, as the kinds of fsspec spell it; 0 where a place does not say."""
    for key in ("mtime", "LastModified", "last_modified", "updated", "created"):
        at = facts.get(key)
        if isinstance(at, datetime):
            return at.timestamp()
        if isinstance(at, int | float):
            return float(at)
    return 0.0
