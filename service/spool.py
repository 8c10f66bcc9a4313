"""Feedback that came while Redis was away: on disk before it is acknowledged, replayed exactly once when Redis is back.

A journal of JSON lines. A replay first gives the file another name, so that what comes meanwhile is a file of its own;
every body carries its id, so a replay that is broken off is simply done again. Several processes may share the file:
whoever writes or renames it holds a lock that the kernel lets go of when its process dies. What the registry refuses for good
at a replay (its id is taken by other content, its answer was never recorded) goes to a file of its own, with the reason: it
was acknowledged, so it is not thrown away.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import IO, Any

from pydantic_core import to_json

from registry.errors import FeedbackNotKept, InteractionUnknown, RecordNewer, RegistryDown, ShoalError
from registry.record import SCHEMA, check_schema
from registry.records import now

log = logging.getLogger("shoal.spool")
PATIENCE_SECONDS = 3600.0
"""How long feedback waits for the answer that it names to be recorded."""
BATCH = 500
_SINCE = "spooled_at"
Body = dict[str, Any]


class Spool:
    """A journal of feedback bodies.

    ``take`` hands bodies to the registry, all or none. It may raise RegistryDown (or whatever ``keeps`` says means the
    same): then everything stays spooled.
    """

    def __init__(
        self,
        path: Path,
        take: Callable[[list[Body]], Any],
        *,
        every: float = 1.0,
        keeps: tuple[type[ShoalError], ...] = (RegistryDown, RecordNewer),
    ) -> None:
        self._path = path
        self._replaying = path.with_suffix(".replaying")
        self._refused = path.with_suffix(".refused")
        self._take = take
        self._every = every
        self._keeps = keeps
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._replay_on, name="feedback-spool", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(5.0)

    @property
    def waiting(self) -> int:
        """How many bodies are on disk and not yet in the registry."""
        return _lines(self._path) + _lines(self._replaying)

    @property
    def refused(self) -> int:
        """How many bodies the registry would not have: they stay on disk, each with the reason."""
        return _lines(self._refused)

    @property
    def size(self) -> int:
        """How many bytes they take there."""
        return _bytes(self._path) + _bytes(self._replaying)

    def add(self, bodies: list[Body]) -> None:
        """Write bodies down, each with its ``id``; they are on disk when this returns.

        ``FeedbackNotKept``: none of them is."""
        try:
            self._write(self._path, bodies)
        except OSError as error:
            raise FeedbackNotKept(error.strerror or str(error)) from error

    def _write(self, path: Path, bodies: list[Body]) -> None:
        said = ({_SINCE: now(), **body, "schema_number": SCHEMA} for body in bodies)
        lines = b"".join(to_json(body) + b"\n" for body in said)
        with self._lock, self._alone("writing"):
            new = not path.exists()
            path.touch(mode=0o600)  # prompts and answers are in it
            with path.open("a+b", buffering=0) as file:
                _append(file, lines)
            if new:
                _sync_folder(path.parent)

    def replay(self) -> int:
        """Hand everything spooled to the registry; how many were taken. RegistryDown: it stays spooled."""
        with self._alone("replay"):
            with self._lock, self._alone("writing"):
                if not self._replaying.exists():
                    if not self._path.exists():
                        return 0
                    self._path.replace(self._replaying)
            taken = 0
            early: list[Body] = []
            refused: list[Body] = []
            with self._replaying.open("rb") as file:
                while lines := list(islice(file, BATCH)):
                    taken += self._taken([body for line in lines if (body := _body(line)) is not None], early, refused)
            if early:
                self.add(early)
            if refused:
                self._write(self._refused, refused)
            self._replaying.unlink()
        return taken

    def _taken(self, bodies: list[Body], early: list[Body], refused: list[Body]) -> int:
        """All at once; where one of them is refused, one by one, so that it does not stop the others."""
        if not bodies:
            return 0
        try:
            self._take([{name: value for name, value in body.items() if name != _SINCE} for body in bodies])
        except self._keeps:
            raise  # nothing is lost: the whole file is replayed again, what was taken is known by its id
        except InteractionUnknown as error:
            # Its answer was given while Redis was away, too, and may not be recorded yet.
            if len(bodies) == 1 and _age(bodies[0]) < PATIENCE_SECONDS:
                early.append(bodies[0])
                return 0
            wrong: Exception = error
        except (ShoalError, ValueError) as error:
            wrong = error
        else:
            return len(bodies)
        if len(bodies) > 1:
            return sum(self._taken([body], early, refused) for body in bodies)
        # It would be refused again for ever.
        log.warning("a spooled feedback item was refused: %s", wrong)
        refused.append({**bodies[0], "refused": str(wrong)})
        return 0

    def _replay_on(self) -> None:
        told = ""
        while not self._stopping.wait(self._every):
            try:
                if taken := self.replay():
                    log.info("%d spooled feedback items are in the registry", taken)
                told = ""
            except RegistryDown:
                continue
            except Exception as error:
                # Whatever it is: what was acknowledged stays on disk, and is tried again.
                if told != (told := str(error)):
                    log.exception("spooled feedback cannot be replayed; it stays on disk")

    @contextmanager
    def _alone(self, what: str) -> Iterator[None]:
        """One process at a time."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.with_suffix(f".{what}-lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _append(file: IO[bytes], lines: bytes) -> None:
    """All of it and on disk, or none of it: half a batch would be replayed although its sender was told to send again."""
    before = file.seek(0, os.SEEK_END)
    try:
        if before and os.pread(file.fileno(), 1, before - 1) != b"\n":
            lines = b"\n" + lines  # a line that a crash cut off was never acknowledged; it must not swallow the next
        while lines:
            lines = lines[file.write(lines) :]
        os.fsync(file.fileno())
    except OSError:
        os.ftruncate(file.fileno(), before)
        raise


def _body(line: bytes) -> Body | None:
    """A line as it was added; None for one that a crash cut off: it was never acknowledged."""
    try:
        body = json.loads(line)
        schema = body.pop("schema_number", SCHEMA)
    except (ValueError, AttributeError, TypeError):
        if line.strip():
            log.warning("a line of spooled feedback was cut off by a crash; it was never acknowledged")
        return None
    check_schema("spooled feedback item", schema)
    return dict(body)


def _lines(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:  # it may be renamed or replayed at any moment
        return 0


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _age(body: Body) -> float:
    """Seconds since the feedback came here; of what an older Shoal wrote, since the time that it says."""
    since = body.get(_SINCE, body.get("at"))
    return (now() - datetime.fromisoformat(since)).total_seconds() if since else float("inf")
