"""Residents: which versions are loaded in the engine, who may stay, and who makes room.

A version becomes ready by three steps: added, probed, listed as ready. Whatever fails leaves nothing behind:

    ResidentError
    |- LoadFailed     the engine refused the adapter; ``reason`` is the engine's
    |- ProbeFailed    it loaded, but its answers are not finite, or are the base's own: it does nothing
    `- NoRoom         every resident is pinned, or did not drain in time

An engine that is gone raises its own EngineUnavailable through all of it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from service.engine import AdapterRefused, Engine, EngineError, EngineFull, Probe
from service.leases import Lease, Leases

log = logging.getLogger(__name__)

REMOVALS = 3  # tries to get a removed adapter out: a request that was broken off may have brought it back


class ResidentError(Exception):
    """A version could not be made ready."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} cannot be made ready: {reason}")
        self.name = name
        self.reason = reason


class LoadFailed(ResidentError):
    """The engine did not take the adapter."""


class ProbeFailed(ResidentError):
    """The adapter loaded, and the probe found that it may not answer; ``probe`` is what it found, if anything."""

    def __init__(self, name: str, reason: str, probe: Probe | None = None) -> None:
        super().__init__(name, reason)
        self.probe = probe


class NoRoom(ResidentError):
    """Nobody can make room: pinned or leased, all of them."""


@dataclass(frozen=True, slots=True)
class ResidentEvent:
    """What happened to one version: ``kind`` is loaded, removed, refused or leftover; ``seconds`` how long it took."""

    kind: str
    name: str
    seconds: float = 0.0
    reason: str | None = None


class Residents:
    """The engine's places and who has them. For one event loop.

    Guarantees: never more than the engine's ``max_loras`` are loaded, at any moment (one leaves before the next comes);
    one load a version, however many ask for it at once; a pinned version is never evicted, nor one with a lease; of the
    others the least recently asked goes first.
    """

    def __init__(
        self,
        engine: Engine,
        leases: Leases,
        *,
        probe_timeout: float = 30.0,
        drain_timeout: float = 60.0,
        on_event: Callable[[ResidentEvent], None] = lambda event: None,
    ) -> None:
        self._engine = engine
        self._leases = leases
        self._probe_timeout = probe_timeout
        self._drain_timeout = drain_timeout
        self._on_event = on_event
        self._ready: dict[str, float] = {}  # when each was last asked, in the clock of time.monotonic
        self._leaving: set[str] = set()  # no longer ready, still in the engine
        self._leftover: set[str] = set()  # removals that failed: still in the engine, to be removed at the next look
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._pinned: frozenset[str] = frozenset()
        self._changes = asyncio.Lock()  # the engine's places change one at a time

    @property
    def ready(self) -> frozenset[str]:
        """Versions that may be asked now."""
        return frozenset(self._ready)

    @property
    def pinned(self) -> frozenset[str]:
        return self._pinned

    @property
    def places(self) -> int:
        """How many versions may be loaded at once."""
        return self._engine.settings.max_loras

    @property
    def leftover(self) -> frozenset[str]:
        """Versions that should have left the engine and have not: ``reconcile`` tries again."""
        return frozenset(self._leftover)

    @property
    def leases(self) -> dict[str, int]:
        """Leases by version, only versions with some."""
        return self._leases.all()

    def pin(self, names: Iterable[str]) -> None:
        """Say which versions may never be evicted: champions, challengers, ways back. Replaces the last call's."""
        self._pinned = frozenset(names)

    def hold(self, name: str) -> Lease | None:
        """A lease on a version that is ready, or None. Acts at once, so what is held cannot have been evicted."""
        if name not in self._ready:
            return None
        self._ready[name] = time.monotonic()
        return self._leases.hold(name)

    async def lease(self, name: str, path: Path) -> Lease:
        """A lease on a version, made ready first if it is not. Raises as ``ensure``."""
        while (lease := self.hold(name)) is None:
            await self.ensure(name, path)
        return lease

    async def ensure(self, name: str, path: Path) -> None:
        """Make a version ready; returns at once if it is. Who gives up waiting does not stop the loading for others.

        Raises LoadFailed, ProbeFailed, NoRoom; then the version is not in the engine."""
        if name in self._ready:
            self._ready[name] = time.monotonic()
            return
        if (loading := self._loading.get(name)) is None:
            loading = asyncio.create_task(self._load(name, path), name=f"load {name}")
            self._loading[name] = loading
            loading.add_done_callback(lambda done: self._loaded(name, done))
        await asyncio.shield(loading)

    async def remove(self, name: str) -> bool:
        """Unload a version: no new leases, then drain, then out of the engine. A pin does not protect against this.

        False: it still has leases after the drain timeout, or it was asked for again meanwhile; it stays ready."""
        asked = self._ready.pop(name, None)
        if asked is None:
            return True
        self._leaving.add(name)
        try:
            drained = await self._leases.drained(name, self._drain_timeout)
            async with self._changes:
                if not drained:
                    self._ready.setdefault(name, asked)
                if name in self._ready:
                    return False
                await self._take_out(name)
                return True
        finally:
            self._leaving.discard(name)

    async def reconcile(self) -> frozenset[str]:
        """Compare with what the engine says it holds, and remove what it should not; returns what that was.

        A version that the engine has lost stops being ready: the next request loads it again. Not for every
        beat: a vLLM worker spins for a second after each question, so one asked twice a second costs a whole core."""
        async with self._changes:
            held = await self._engine.held()
            for lost in self._ready.keys() - held:
                del self._ready[lost]
                self._on_event(ResidentEvent("removed", lost, reason="the engine no longer holds it"))
            return await self._sweep()

    async def close(self) -> None:
        """Stop loading; call it before the engine stops."""
        for loading in (waiting := list(self._loading.values())):
            loading.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    async def _load(self, name: str, path: Path) -> None:
        started = time.monotonic()
        async with self._changes:
            if name in self._ready:  # it was leaving, and could not
                return
            try:
                await self._make_room(name)
                await self._add(name, path)
                await self._probe(name)
            except (ResidentError, EngineError) as error:
                reason = getattr(error, "reason", str(error))
                self._on_event(ResidentEvent("refused", name, time.monotonic() - started, reason))
                raise
            self._leaving.discard(name)
            self._leftover.discard(name)
            self._ready[name] = time.monotonic()
        self._on_event(ResidentEvent("loaded", name, time.monotonic() - started))

    def _loaded(self, name: str, task: asyncio.Task[None]) -> None:
        del self._loading[name]
        if not task.cancelled():
            task.exception()  # seen: everyone who asked may have gone, and an unseen error would be logged as a fault

    async def _make_room(self, name: str) -> None:
        """Evict until a place is free for ``name``: those that nobody asks now first, then whoever drains in time."""
        while len(self._ready.keys() | (self._leaving - {name})) >= self._engine.settings.max_loras:
            free = self._ready.keys() - self._pinned
            if not free:
                raise NoRoom(name, f"all {self._engine.settings.max_loras} places are pinned, or about to be free")
            oldest = min(free, key=lambda known: (self._leases.held(known) > 0, self._ready[known]))
            asked = self._ready.pop(oldest)  # from here on nobody can take a lease on it
            if not await self._leases.drained(oldest, self._drain_timeout):
                self._ready[oldest] = asked
                raise NoRoom(name, f"{oldest} is still answering after {self._drain_timeout:g} s")
            await self._take_out(oldest)

    async def _add(self, name: str, path: Path) -> None:
        try:
            try:
                await self._engine.add(name, path)
            except EngineFull:
                await self._sweep()  # something is in the engine that should not be: make its place free, once
                await self._engine.add(name, path)
        except AdapterRefused as error:
            raise LoadFailed(name, error.reason) from error
        except EngineFull as error:
            raise LoadFailed(name, error.message) from error

    async def _sweep(self) -> frozenset[str]:
        held = await self._engine.held()
        leftover = held - self._ready.keys() - self._leaving
        for known in leftover:
            self._on_event(ResidentEvent("leftover", known))
            await self._engine.remove(known)
        self._leftover = (self._leftover | leftover) & held - self._ready.keys()
        if self._leftover:
            self._leftover &= await self._engine.held()
        return leftover

    async def _probe(self, name: str) -> None:
        try:
            probe = await self._engine.probe(name, self._probe_timeout)
        except TimeoutError as error:
            await self._take_out(name)
            raise ProbeFailed(name, f"no answer to the probe within {self._probe_timeout:g} s") from error
        if probe.finite and probe.differs:
            return
        await self._take_out(name)
        why = "its answers are the base's own" if probe.finite else "its log-probabilities are not finite"
        raise ProbeFailed(name, why, probe)

    async def _take_out(self, name: str) -> None:
        """Remove from the engine, and look: a request for it that came to an end a moment ago may bring it back."""
        started = time.monotonic()
        self._leftover.add(name)  # until it is seen to be gone, also where the engine gives no answer
        for _ in range(REMOVALS):
            await self._engine.remove(name)
            if name not in await self._engine.held():
                self._leftover.discard(name)
                self._on_event(ResidentEvent("removed", name, time.monotonic() - started))
                return
        log.error("%s is still in the engine after %d removals", name, REMOVALS)
        self._on_event(ResidentEvent("leftover", name, time.monotonic() - started))
