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
import contextlib
import functools
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from service.engine import AdapterRefused, Engine, EngineError, EngineFull, Probe
from service.leases import Lease, Leases
from service.turns import Turns

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
    others the least recently asked goes first. Where all of those are answering, one takes no new leases and leaves when
    it has drained; meanwhile a load that is pinned or hurried goes before the others (``service/turns.py``).
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
        self._withdrawn: dict[str, float] = {}  # as ``_ready``, of those that drain to make room: no new leases
        self._leftover: set[str] = set()  # removals that failed: still in the engine, to be removed at the next look
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._turns = Turns()
        self._pinned: frozenset[str] = frozenset()
        self._changes = asyncio.Lock()  # the engine's places change one at a time

    @property
    def ready(self) -> frozenset[str]:
        """Versions that may be asked now."""
        return frozenset(self._ready)

    @property
    def loaded(self) -> frozenset[str]:
        """Versions that may be asked now, or may be again: those that drain to make room for another, too."""
        return frozenset(self._ready.keys() | self._withdrawn.keys())

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

    async def held(self) -> frozenset[str]:
        """What the engine itself says that it holds at this moment, leftovers and strangers too. Not for every beat: see
        ``reconcile``."""
        return await self._engine.held()

    @property
    def leases(self) -> dict[str, int]:
        """Leases by version, only versions with some."""
        return self._leases.all()

    def pin(self, names: Iterable[str]) -> None:
        """Say which versions may never be evicted: champions, challengers, ways back. Replaces the last call's."""
        self._pinned = frozenset(names)
        self._give_back(self._withdrawn.keys() & self._pinned)

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

    async def ensure(self, name: str, path: Path, *, first: bool = False) -> None:
        """Make a version ready; returns at once if it is. Who gives up waiting does not stop the loading for others.

        ``first``: it goes before loads that only a request asked for, as what is pinned does.
        Raises LoadFailed, ProbeFailed, NoRoom; then the version is not in the engine."""
        if name in self._ready:
            self._ready[name] = time.monotonic()
            return
        if (loading := self._loading.get(name)) is None:
            loading = asyncio.create_task(self._load(name, path), name=f"load {name}")
            self._loading[name] = loading
            loading.add_done_callback(lambda done: self._loaded(name, done))
        if first:
            self.hurry(name)
        await asyncio.shield(loading)

    def hurry(self, name: str) -> None:
        """If it is being loaded: as ``ensure`` with ``first``."""
        if name in self._loading:
            self._turns.hurry(name)

    async def remove(self, name: str) -> bool:
        """Unload a version: no new leases, then drain, then out of the engine. A pin does not protect against this.

        False: it still has leases after the drain timeout, or it was asked for again meanwhile; it stays ready."""
        asked = self._ready.pop(name, None) or self._withdrawn.pop(name, None)
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
            self._turns.stir()

    async def reconcile(self) -> frozenset[str]:
        """Compare with what the engine says it holds, and remove what it should not; returns what that was.

        A version that the engine has lost stops being ready: the next request loads it again. Not for every
        beat: a vLLM worker spins for a second after each question, so one asked twice a second costs a whole core."""
        async with self._changes:
            held = await self._engine.held()
            for lost in self.loaded - held:
                self._ready.pop(lost, None)
                self._withdrawn.pop(lost, None)
                self._on_event(ResidentEvent("removed", lost, reason="the engine no longer holds it"))
            return await self._sweep()

    async def close(self) -> None:
        """Stop loading; call it before the engine stops."""
        for loading in (waiting := list(self._loading.values())):
            loading.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    async def _load(self, name: str, path: Path) -> None:
        started = time.monotonic()
        self._turns.join(name)
        try:
            while not await self._loaded_in_turn(name, path, started):
                left = self._drain_timeout - self._turns.waited(name)
                if left <= 0:
                    raise self._no_room(name)
                may_leave = self.loaded - self._pinned
                await self._turns.changed(
                    left, [functools.partial(self._leases.drained, one, left) for one in may_leave]
                )
        except (ResidentError, EngineError) as error:
            reason = getattr(error, "reason", str(error))
            self._on_event(ResidentEvent("refused", name, time.monotonic() - started, reason))
            raise
        finally:
            self._turns.leave(name)
            if self._turns.over:
                self._give_back(self._withdrawn)

    async def _loaded_in_turn(self, name: str, path: Path, started: float) -> bool:
        """Whether it is ready now; False: others go first, or whoever is to make room still answers."""
        async with self._changes:
            if name in self._ready:  # it was leaving, and could not
                return True
            if not self._turns.is_next(name, self._pinned):
                return False
            if name in self._withdrawn:  # it was to make room for a load that has given up, or comes later now
                self._give_back([name])
                return True
            if not await self._make_room(name):
                return False
            await self._add(name, path)
            await self._probe(name)
            self._leaving.discard(name)
            self._leftover.discard(name)
            self._ready[name] = time.monotonic()
        self._on_event(ResidentEvent("loaded", name, time.monotonic() - started))
        return True

    def _loaded(self, name: str, task: asyncio.Task[None]) -> None:
        del self._loading[name]
        if not task.cancelled():
            task.exception()  # seen: everyone who asked may have gone, and an unseen error would be logged as a fault

    async def _make_room(self, name: str) -> bool:
        """Evict those that nobody asks now until a place is free for ``name``. False where all that may leave are answering:
        then one of them takes no new leases. Never waits for leases."""
        while len(self._ready.keys() | self._withdrawn.keys() | (self._leaving - {name})) >= self.places:
            free = [*self._withdrawn, *sorted(self._ready.keys() - self._pinned, key=self._ready.__getitem__)]
            if idle := [known for known in free if not self._leases.held(known)]:
                self._withdrawn.pop(idle[0], None)
                self._ready.pop(idle[0], None)  # from here on nobody can take a lease on it
                await self._take_out(idle[0])
                continue
            if not free and not self._leaving - {name}:
                raise NoRoom(name, f"all {self.places} places are pinned")
            if free and not self._withdrawn:
                self._withdrawn[free[0]] = self._ready.pop(free[0])
            return False
        return True

    def _no_room(self, name: str) -> NoRoom:
        """Nobody drained in time: who was withdrawn for it answers again."""
        answering = ", ".join(sorted(self._withdrawn.keys() | self._leaving)) or "another load"
        self._give_back(self._withdrawn)
        return NoRoom(name, f"{answering} is still answering after {self._drain_timeout:g} s")

    def _give_back(self, names: Iterable[str]) -> None:
        """Versions that were withdrawn answer again."""
        for name in list(names):
            self._ready[name] = self._withdrawn.pop(name)
            self._turns.stir()

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
        leftover = held - self.loaded - self._leaving
        for known in leftover:
            self._on_event(ResidentEvent("leftover", known))
            await self._engine.remove(known)
        self._leftover = (self._leftover | leftover) & held - self.loaded
        if self._leftover:
            self._leftover &= await self._engine.held()
        return leftover

    async def _probe(self, name: str) -> None:
        try:
            probe = await self._engine.probe(name, self._probe_timeout)
        except TimeoutError as error:
            await self._take_out(name)
            raise ProbeFailed(name, f"no answer to the probe within {self._probe_timeout:g} s") from error
        except Exception:
            # The engine that failed here may well fail to remove it now; as a leftover it is removed at a later look.
            with contextlib.suppress(Exception):
                await self._take_out(name)
            raise
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
