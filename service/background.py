"""Background: work that nobody waits for, and whose failure is a line in the log, never a fault of the caller's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from registry.errors import ShoalError
from service.engine import EngineError
from service.residents import ResidentError

log = logging.getLogger("shoal.replica")


class Background:
    """Tasks of one event loop."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[None]:
        """Begin the work now."""
        task = asyncio.create_task(_quietly(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def settled(self) -> None:
        """Wait until nothing is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def cancel(self) -> None:
        for task in (ending := list(self._tasks)):
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)


async def _quietly(work: Coroutine[Any, Any, Any]) -> None:
    try:
        await work
    except (ShoalError, ResidentError, EngineError) as error:
        log.warning("%s: %s", type(error).__name__, error)
    except Exception:
        log.exception("background work failed")
