"""Leases: a request's hold on a version while it is being answered. What is held is not unloaded."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from types import TracebackType

import anyio
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

log = logging.getLogger(__name__)

CLOSING_SECONDS = 5.0  # how long an abandoned stream may take to close before its lease is released anyway


class Lease:
    """One hold on one version. Released exactly once, however often ``release`` is called; a context manager."""

    __slots__ = ("_release", "name")

    def __init__(self, name: str, release: Callable[[str], None]) -> None:
        self.name = name
        self._release: Callable[[str], None] | None = release

    def release(self) -> None:
        if (release := self._release) is not None:
            self._release = None
            release(self.name)

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()

    def __del__(self) -> None:
        # A request that was cancelled between being let in and being answered leaves its lease to the collector: a
        # version that can never drain again would be worse than this line.
        if self._release is not None:
            log.warning("a lease on %s was dropped without being released", self.name)
            self.release()


class Leases:
    """Counts the leases of every version. For one event loop; every method but ``drained`` acts at once."""

    def __init__(self) -> None:
        self._held: Counter[str] = Counter()
        self._empty: dict[str, asyncio.Event] = {}

    def hold(self, name: str) -> Lease:
        """A lease on ``name``, counted from this line on: no await lies between choosing a version and holding it."""
        self._held[name] += 1
        if event := self._empty.get(name):
            event.clear()
        return Lease(name, self._release)

    def held(self, name: str) -> int:
        """Leases on ``name`` now."""
        return self._held[name]

    def all(self) -> dict[str, int]:
        """Leases by version, only versions with some."""
        return {name: count for name, count in self._held.items() if count}

    async def drained(self, name: str, within: float) -> bool:
        """Wait until nothing holds ``name``; False if something still does after ``within`` seconds."""
        if not self._held[name]:
            return True
        try:
            async with asyncio.timeout(within):
                while self._held[name]:  # a new lease may be taken between the last release and this task's turn
                    event = self._empty.setdefault(name, asyncio.Event())  # the last release took its event away
                    event.clear()
                    await event.wait()
        except TimeoutError:
            return False
        return True

    def _release(self, name: str) -> None:
        self._held[name] -= 1
        if self._held[name] == 0:
            del self._held[name]
            if event := self._empty.pop(name, None):
                event.set()


class LeasedStreamingResponse(StreamingResponse):
    """A stream that holds a lease until it has been sent, or its client has gone, or it never started at all.

    The lease is released after the stream is closed, and so after the engine has been told to stop. ``on_close`` is
    called last. A generator's own ``finally`` would not do: one that never started never runs it.
    """

    def __init__(
        self,
        events: AsyncIterator[str],
        lease: Lease | None,
        headers: Mapping[str, str] | None = None,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(events, headers=headers, media_type="text/event-stream")
        self._events = events
        self._lease = lease
        self._on_close = on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            try:
                # Shielded: a server that cancels this request would cancel the closing of its stream as well.
                with anyio.move_on_after(CLOSING_SECONDS, shield=True), contextlib.suppress(Exception):
                    await self._events.aclose()  # type: ignore[attr-defined]  # every stream here is a generator
            finally:
                if self._lease is not None:
                    self._lease.release()
                if self._on_close is not None:
                    self._on_close()
