"""Arrivals: versions on their way into the engine. The record, the bytes, the engine; once, however many ask.

Finding the record and fetching the bytes (which are verified) happens in threads, side by side for different versions;
the engine takes one at a time (``Residents``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from registry.errors import NotFound, RegistryDown, ShoalError, VersionRetired
from registry.records import Version
from registry.registry import Registry
from service.engine import EngineError, EngineUnavailable
from service.leases import Lease
from service.residents import NoRoom, ResidentError, Residents

FAILURE_SECONDS = 5.0  # a version that could not arrive is not tried again for each request, but soon
ARRIVAL_ERRORS = (ShoalError, ResidentError, EngineError)
_PASSING = (NotFound, RegistryDown, NoRoom, EngineUnavailable)  # no fault of the version's


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a version could not arrive, and when that was by the clock of time.monotonic."""

    error: Exception
    at: float

    @property
    def reason(self) -> str:
        return str(getattr(self.error, "reason", None) or self.error)


class Arrivals:
    """Brings versions. For one event loop; every error of ``ARRIVAL_ERRORS`` may come out of it."""

    def __init__(self, registry: Registry, residents: Residents) -> None:
        self._registry = registry
        self._residents = residents
        self._coming: dict[str, asyncio.Task[None]] = {}
        self._failures: dict[str, Failure] = {}
        self._wished: set[str] = set()  # coming because a move wants them: their loads go first
        self.versions: dict[str, Version] = {}  # records by engine name; a version never changes
        self.highest: dict[str, int] = {}  # the highest version number of each adapter that was ever there

    @property
    def failures(self) -> dict[str, Failure]:
        """The versions that could not arrive when they were last asked for."""
        return dict(self._failures)

    async def lease(self, adapter: str, number: int) -> Lease:
        """A lease on the version, brought first if it is not ready."""
        name = f"{adapter}@{number}"
        while (lease := self._residents.hold(name)) is None:
            await self.bring(adapter, number)
        return lease

    async def bring(self, adapter: str, number: int, *, again: bool = False) -> None:
        """Make the version ready. A failure of the last seconds is answered as it was, unless ``again``: a move asks, which
        waits behind no load that only a request asked for."""
        name = f"{adapter}@{number}"
        if name in self._residents.ready:
            self._failures.pop(name, None)
            return
        if (coming := self._coming.get(name)) is None:
            failure = self._failures.get(name)
            if failure and not again and time.monotonic() - failure.at < FAILURE_SECONDS:
                raise failure.error.with_traceback(None)
            coming = asyncio.create_task(self._bring(adapter, number), name=f"bring {name}")
            self._coming[name] = coming
            coming.add_done_callback(lambda done: self._arrived(name, done))
        if again:
            self._wished.add(name)
            self._residents.hurry(name)
        await asyncio.shield(coming)

    async def version(self, adapter: str, number: int) -> Version:
        """A version's record, asked for once. Raises VersionUnknown, VersionRetired, RegistryDown."""
        name = f"{adapter}@{number}"
        if (known := self.versions.get(name)) is None:
            known = await asyncio.to_thread(self._registry.version, adapter, number)
            if known.retired:
                raise VersionRetired(adapter, number)
            self.versions[name] = known
            self.learn({adapter: number})
        return known

    def learn(self, numbers: Mapping[str, int]) -> None:
        """Versions up to these numbers were there, by adapter: no number of them may mean other bytes."""
        for adapter, number in numbers.items():
            self.highest[adapter] = max(number, self.highest.get(adapter, 0))

    def forget(self, adapter: str, keep: Iterable[int]) -> None:
        """Ask anew for the records of an adapter's versions, but for ``keep``: any other may have been retired."""
        kept = {f"{adapter}@{number}" for number in keep}
        for name in [held for held in self.versions if held.rpartition("@")[0] == adapter and held not in kept]:
            del self.versions[name]

    async def close(self) -> None:
        for coming in (waiting := list(self._coming.values())):
            coming.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    async def _bring(self, adapter: str, number: int) -> None:
        version = await self.version(adapter, number)
        path = await asyncio.to_thread(self._registry.artifacts.fetch, version.digest)
        await self._residents.ensure(version.engine_name, path, first=version.engine_name in self._wished)
        if (
            self.versions.get(version.engine_name) is not version
        ):  # its rollout moved meanwhile: it may be retired by now
            try:
                await self.version(adapter, number)
            except VersionRetired:
                await self._residents.remove(version.engine_name)
                raise

    def _arrived(self, name: str, task: asyncio.Task[None]) -> None:
        del self._coming[name]
        self._wished.discard(name)
        if task.cancelled():
            return
        error = (
            task.exception()
        )  # seen: everyone who asked may have gone, and an unseen error would be logged as a fault
        if error is None:
            self._failures.pop(name, None)
        elif isinstance(error, ARRIVAL_ERRORS) and not isinstance(error, _PASSING):
            self._failures[name] = Failure(error, time.monotonic())
