"""Turns: whose load is next where several want a place in the engine.

What is pinned or wished for goes before what a request merely named; otherwise first come, first served. Nobody holds a
lock while it waits, so a load that waits for a stream to end keeps no promotion from going first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable


class Turns:
    """The loads that want a place, by name. For one event loop; every method but ``changed`` acts at once."""

    def __init__(self) -> None:
        self._waiting: dict[str, float] = {}  # in the order they came; when each was first next, 0.0 before
        self._hurried: set[str] = set()
        self._stir = asyncio.Event()

    def join(self, name: str) -> None:
        self._waiting[name] = 0.0

    def leave(self, name: str) -> None:
        self._waiting.pop(name, None)
        self._hurried.discard(name)
        self.stir()

    def hurry(self, name: str) -> None:
        """From here on ``name`` goes before those that only a request named."""
        self._hurried.add(name)
        self.stir()

    @property
    def over(self) -> bool:
        """Nobody waits."""
        return not self._waiting

    def is_next(self, name: str, pinned: Collection[str]) -> bool:
        """Whether it is the turn of ``name``, which has joined; its time begins when this is true for the first time."""
        first = min(self._waiting, key=lambda one: one not in pinned and one not in self._hurried)
        if first == name:
            self._waiting[name] = self._waiting[name] or time.monotonic()
        return first == name

    def waited(self, name: str) -> float:
        """Seconds since it was next for the first time."""
        since = self._waiting[name]
        return time.monotonic() - since if since else 0.0

    def stir(self) -> None:
        """Something changed that a waiting load may want to know."""
        self._stir.set()
        self._stir = asyncio.Event()

    async def changed(self, within: float, events: Iterable[Callable[[], Awaitable[object]]]) -> None:
        """Wait until something stirs, or one of ``events`` happens, or ``within`` seconds are over."""
        stirred = self._stir
        waits = [asyncio.ensure_future(each()) for each in (stirred.wait, *events)]
        try:
            await asyncio.wait(waits, timeout=within, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
