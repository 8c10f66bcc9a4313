"""Single posts that come at about the same time, stored together: one thread, one round trip, one sync of a disk for all.

Each is answered by itself, and not before it is kept. A post waits for others until there are ``ENOUGH``, or
``LINGER_SECONDS``: raters do not notice, and answers that are being made beside it are held up less.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from registry.errors import ShoalError
from registry.feedback import Kept
from service.auth import Caller

LINGER_SECONDS = 0.05
ENOUGH = 8
MOST = 500
Post = tuple[dict[str, Any], Caller]
Spooled = str
"""The id of feedback that waits on disk."""
Told = Kept | Spooled | ShoalError


class Posts:
    """For one event loop. ``keep`` gets some posts, in a thread, and says what became of each."""

    def __init__(self, keep: Callable[[Sequence[Post]], list[Told]]) -> None:
        self._keep = keep
        self._waiting: list[tuple[Post, asyncio.Future[Told]]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._keeping: asyncio.Task[None] | None = None

    async def add(self, fields: dict[str, Any], who: Caller) -> Kept | Spooled:
        """Keeps one post with those around it. What ``keep`` says of it is raised where it is an error."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Told] = loop.create_future()
        self._waiting.append(((fields, who), answer))
        if self._keeping is None:
            if len(self._waiting) >= ENOUGH:
                self._begin()
            elif self._timer is None:
                self._timer = loop.call_later(LINGER_SECONDS, self._begin)
        told = await answer
        if isinstance(told, ShoalError):
            raise told
        return told

    def _begin(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._keeping = asyncio.get_running_loop().create_task(self._keep_waiting())

    async def _keep_waiting(self) -> None:
        """One call after the other until nothing waits: what comes during one is kept by the next."""
        try:
            while self._waiting:
                taken, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
                await self._keep_some(taken)
        finally:
            self._keeping = None

    async def _keep_some(self, taken: list[tuple[Post, asyncio.Future[Told]]]) -> None:
        try:
            told = await asyncio.to_thread(self._keep, [post for post, _ in taken])
        except Exception as error:
            for _, answer in taken:
                if not answer.done():
                    answer.set_exception(error)
            return
        for (_, answer), one in zip(taken, told, strict=True):
            if not answer.done():  # whoever asked may have gone
                answer.set_result(one)
