"""This machine's verified copies of weights, within a size bound; several processes may share one.

A copy that is in use is held: the process keeps a shared ``flock`` on ``holds/<hex>``, which the kernel gives back when the
process ends, however it ends. Making room takes the exclusive lock of the copy that was used longest ago, and passes over
those that it does not get: what any process holds is never taken away. The lock file's time says when it was last used.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from registry.peft_bytes import drop, parts_of

HOLD_SECONDS = 600.0  # a copy that was fetched is held this long at least: its reader may only be about to open it
MOST_HELD = 128  # holds that nobody asked to keep; each is an open file
_COPY = re.compile(r"[0-9a-f]{64}")
_PARTIAL = re.compile(r"[0-9a-f]{64}\.[0-9a-f]{32}")


class Cache:
    """Folders by digest under ``root``. ``max_bytes``: 0 for no bound. Safe for threads, processes and across a fork."""

    def __init__(self, root: Path, max_bytes: int = 0) -> None:
        self.root = root.resolve()
        self.max_bytes = max_bytes
        self._held: dict[str, tuple[int, float]] = {}  # digest -> its lock file, when it was last fetched
        self._kept: frozenset[str] = frozenset()
        self._pid = os.getpid()
        self._changing = threading.Lock()

    def path(self, digest: str) -> Path:
        return self.root.joinpath(*parts_of(digest))

    def hold(self, digest: str) -> None:
        """From here on no process takes the copy away, until ``keep`` lets it go."""
        with self._changing:
            if self._pid != os.getpid():  # the locks of a parent are the parent's
                self._held, self._kept, self._pid = {}, frozenset(), os.getpid()
            handle, _ = self._held.pop(digest, (None, 0.0))
            if handle is None:
                handle = _locked(self._lock_file(digest), fcntl.LOCK_SH)
            self._held[digest] = (handle, time.monotonic())
            with contextlib.suppress(OSError):
                os.utime(handle)
            self._let_go(before=0.0 if len(self._held) <= MOST_HELD + len(self._kept) else None)

    def keep(self, digests: Iterable[str]) -> None:
        """Says which copies this process still uses. Others that it fetched more than ten minutes ago may leave.

        Replaces the last call's. A process that never calls it keeps its last 128 until it ends.
        """
        with self._changing:
            self._kept = frozenset(digests)
            self._let_go(before=time.monotonic() - HOLD_SECONDS)

    def forget(self, digest: str) -> None:
        """Lets go at once of a digest that could not be fetched; nothing of it stays."""
        with self._changing:
            if (held := self._held.pop(digest, None)) is not None:
                os.close(held[0])
        if not self.path(digest).exists():
            self._evict(self.path(digest))

    def make_room(self) -> list[str]:
        """Takes away copies that nobody holds, least recently used first, until the bound is kept; their digests."""
        if not self.max_bytes:
            return []
        sizes = {path: _bytes_in(path) for path in self._folders(_COPY)}
        total, gone = sum(sizes.values()), []
        for path in sorted(sizes, key=lambda path: _used_at(self.root / "holds" / path.name)):
            if total <= self.max_bytes:
                break
            if self._evict(path):
                total -= sizes[path]
                gone.append(f"sha256:{path.name}")
        return gone

    def _lock_file(self, digest: str) -> Path:
        return self.root / "holds" / parts_of(digest)[3]

    def _folders(self, named: re.Pattern[str]) -> list[Path]:
        return [path for path in self.root.glob("sha256/*/*/*") if named.fullmatch(path.name) and path.is_dir()]

    def _evict(self, path: Path) -> bool:
        lock_file = self.root / "holds" / path.name
        try:
            handle = _locked(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        try:
            drop(path)
            lock_file.unlink(missing_ok=True)  # under the lock: who waits for it sees that the file is another one
        finally:
            os.close(handle)
        return True

    def _let_go(self, *, before: float | None) -> None:
        """Releases what is not kept and was fetched before then; None: the one that was fetched longest ago."""
        free = [digest for digest in self._held if digest not in self._kept]
        chosen = free[:1] if before is None else [digest for digest in free if self._held[digest][1] < before]
        for digest in chosen:
            handle, _ = self._held.pop(digest)
            fcntl.flock(handle, fcntl.LOCK_UN)  # a forked child may have the file open, too
            os.close(handle)


def leftovers(root: Path, before: float) -> Iterator[tuple[Path, int]]:
    """What writers that died left under a local root: scratch folders and half-made copies in which nothing was written, and
    nothing was added or removed, since the time ``before``."""
    aside = (path for path in root.glob("sha256/*/*/*") if _PARTIAL.fullmatch(path.name))
    for path in (*root.glob("arriving/*"), *aside):
        with contextlib.suppress(OSError):
            if path.is_dir() and _touched_at(path) < before:
                yield path, _bytes_in(path)


def clear(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)


def _locked(path: Path, how: int) -> int:
    """An open, locked file. Its last owner may have unlinked it while we waited: then the lock is on nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, how)
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_ino == os.fstat(handle).st_ino:
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _used_at(lock_file: Path) -> float:
    with contextlib.suppress(OSError):
        return lock_file.stat().st_mtime
    return 0.0


def _touched_at(folder: Path) -> float:
    """When a folder or a file in it was last written to: a long copy changes its file, not its folder."""
    return max(path.stat().st_mtime for path in (folder, *folder.iterdir()))


def _bytes_in(folder: Path) -> int:
    """The bytes of the files in a folder; what another process takes away meanwhile counts for nothing."""
    total = 0
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            with contextlib.suppress(OSError):
                total += path.stat().st_size
    return total
