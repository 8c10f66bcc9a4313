"""Wishes: versions that a move asks every replica to get ready, and this replica's refusals, each with its reason."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from registry.registry import Registry
from service.arrivals import ARRIVAL_ERRORS, Arrivals
from service.background import Background
from service.residents import Residents

log = logging.getLogger("shoal.replica")


class Wishes:
    """Grants wishes for as long as they stand, or refuses each once; the same version wished for again is tried again."""

    def __init__(
        self,
        registry: Registry,
        residents: Residents,
        arrivals: Arrivals,
        background: Background,
        tell: Callable[[], Awaitable[None]],
    ) -> None:
        self._registry = registry
        self._residents = residents
        self._arrivals = arrivals
        self._background = background
        self._tell = tell
        self._under_way: set[str] = set()
        self.refused: dict[str, str] = {}
        self.heard: dict[str, int] = {}  # the number of the wish that was last tried

    async def hear(self) -> None:
        """Begin to get ready what was wished for; a wish that has ended takes its refusal with it."""
        wishes = await asyncio.to_thread(self._registry.replicas.wishes)
        names = {f"{adapter}@{number}" for adapter, number, _ in wishes}
        for name in self.heard.keys() - names:
            del self.heard[name]
            self.refused.pop(name, None)
        for adapter, number, wish in wishes:
            name = f"{adapter}@{number}"
            if name in self._residents.ready:
                self.refused.pop(name, None)
            elif name not in self._under_way and (wish > self.heard.get(name, -1) or name not in self.refused):
                # A wish that was granted stands: another adapter's version may have pushed this one out since.
                self._under_way.add(name)
                self._background.spawn(self._grant(adapter, number, wish))

    async def _grant(self, adapter: str, number: int, wish: int) -> None:
        name = f"{adapter}@{number}"
        try:
            await self._arrivals.bring(adapter, number, again=True)
            self.refused.pop(name, None)
        except ARRIVAL_ERRORS as error:
            self.refused[name] = str(getattr(error, "reason", None) or error)
            log.warning("%s is refused: %s", name, error)
        except Exception as error:
            # Whatever it is: the caller hears a reason now, rather than that nobody answered when its time is over.
            self.refused[name] = f"{type(error).__name__}: {error}"
            log.exception("%s is refused", name)
        finally:
            self.heard[name] = wish
            self._under_way.discard(name)
        await self._tell()
