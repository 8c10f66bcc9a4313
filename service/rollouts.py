"""Rollouts: which versions this replica's requests are routed to, and whom that keeps loaded.

A move asks the replicas first, so what a rollout needs is there when it arrives and the pointer moves at once. A replica
that could not be asked (it was cut off) begins to load, waits a moment, and moves the pointer all the same: from then on
requests wait for the load, and nobody is answered by the old version.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable, Mapping, Sequence

from registry.errors import RecordNewer, VersionUnknown
from registry.guard import find_behind, went_back
from registry.records import Rollout
from registry.registry import Registry
from registry.store import Reached
from service.arrivals import Arrivals
from service.background import Background
from service.known import reached
from service.residents import Residents

log = logging.getLogger("shoal.replica")

FOLLOW_SECONDS = 0.3  # a load may delay its pointer this long: the old version answers for less than a second
RETRY_SECONDS = 30.0  # a pinned version that could not be loaded is tried again
SWEEP_SECONDS = 5.0  # every revision is read this often, also where no move was counted: an older Shoal counts none
MANY = 20  # rollouts that are read in one question rather than one by one


class Rollouts:
    """The rollouts as they are followed, by adapter. For one event loop."""

    def __init__(self, registry: Registry, residents: Residents, arrivals: Arrivals, background: Background) -> None:
        self._registry = registry
        self._residents = residents
        self._arrivals = arrivals
        self._background = background
        self._coming: dict[str, Rollout] = {}  # heard of; their pointers have not moved yet
        self._loading: set[str] = set()
        self._to_look_at: set[str] = set()  # adapters that moved: a version of theirs may be retired
        self._looking_at: set[str] = set()
        self.now: dict[str, Rollout] = {}
        self.asked: dict[str, float] = {}  # when each adapter was last asked, by the clock of time.monotonic
        self.changes = 0
        self.problems: dict[str, str] = {}  # adapters that cannot be followed, with the reason and the remedy
        self.went_back = False
        self._crowded = 0  # how many had no place of their own when that was last said
        self._counted: int | None = None  # the moves that there were when every revision was last read
        self._swept = 0.0

    @property
    def pinned(self) -> list[str]:
        """Every version that a rollout wants loaded, also those that do not fit."""
        return self._pinned_by(self.now)

    @property
    def without_place(self) -> list[str]:
        """Those that are pinned and have no place of their own: loaded when they are asked, and evicted as any other."""
        pinned = self._residents.pinned
        return sorted(name for name in self._pinned_by(self.now | self._coming) if name not in pinned)

    async def catch_up(self, *, hinted: bool = False) -> None:
        """Begin to follow every rollout that has moved; a slow load of one adapter does not hold up the others.

        Cheap where nothing moved: the revisions of all adapters are read when a move was counted or hinted at, when some
        rollout cannot be followed, and every few seconds whatever is said."""
        # Before the revisions: a move that comes between the two questions is in the answer, or counted at the next look.
        made, at = await asyncio.to_thread(self._registry.moves_made), time.monotonic()
        if made == self._counted and not hinted and not self.problems and at - self._swept < SWEEP_SECONDS:
            return
        await self._read_all()
        self._counted, self._swept = made, at

    async def _read_all(self) -> None:
        known = reached(self.now.values(), self._arrivals.highest)  # before the question is asked
        self._registry.guard.remember(known)  # whoever moves from this process need not wait for a heartbeat to tell
        there = await asyncio.to_thread(self._registry.reached)
        self._look_back(known, there)
        self._arrivals.learn({adapter: at.versions for adapter, at in there.items()})
        await self._read([adapter for adapter, at in there.items() if not self._has(adapter, at.revision)])

    async def _read(self, moved: Sequence[str]) -> None:
        if len(moved) > MANY:
            with contextlib.suppress(RecordNewer):  # one by one, then: the others are followed
                every = {held.name: held.rollout for held in await asyncio.to_thread(self._registry.adapters)}
                self.follow(every[adapter] for adapter in moved if adapter in every)
                return
        for adapter in moved:
            try:
                self.follow([await asyncio.to_thread(self._registry.rollout, adapter)])
            except RecordNewer as error:  # its last known rollout stands
                self._tell(adapter, error.message)

    def _look_back(self, known: Mapping[str, Reached], there: Mapping[str, Reached]) -> None:
        """Not as far as was known here: the registry went back. What is followed stands."""
        behind = find_behind(known, there)
        newer = {name: why for name, why in self.problems.items() if self._moved_on(name, there)}
        message = went_back(behind).message if behind else ""
        if behind and not self.went_back:
            log.error("%s", message)
        self.went_back = bool(behind)
        self.problems = newer | {one.adapter: message for one in behind}

    def _moved_on(self, adapter: str, there: Mapping[str, Reached]) -> bool:
        return adapter in there and not self._has(adapter, there[adapter].revision)

    def _tell(self, adapter: str, message: str) -> None:
        if self.problems.get(adapter) != message:
            log.error("%s: %s", adapter, message)
        self.problems[adapter] = message

    def follow(self, rollouts: Iterable[Rollout]) -> None:
        """Move to these rollouts, each as soon as its champion is there."""
        moved = [rollout for rollout in rollouts if not self._has(rollout.adapter, rollout.revision)]
        self._coming |= {rollout.adapter: rollout for rollout in moved}
        self.pin()
        for rollout in moved:
            if self._missing(rollout.adapter, rollout.champion):
                self._background.spawn(self.take(rollout))
            else:
                self._point(rollout)

    async def take(self, rollout: Rollout) -> None:
        """Move to one rollout; returns when requests are routed by it, or by a later one."""
        coming = self._coming.get(rollout.adapter)
        if coming is not None and coming.revision > rollout.revision:
            rollout = coming  # a call that is repeated brings its old answer: what is under way by now stays pinned
        if not self._knows(rollout):
            self._coming[rollout.adapter] = rollout
            self.pin()
            if rollout.champion is not None and self._missing(rollout.adapter, rollout.champion):
                loading = self._background.spawn(self._arrivals.bring(rollout.adapter, rollout.champion))
                before = self.now.get(rollout.adapter)
                if before is not None and before.champion is not None:  # else nobody answers meanwhile: requests wait
                    await asyncio.wait([loading], timeout=FOLLOW_SECONDS)
        self._point(rollout)

    def pin(self) -> None:
        """Say whom to keep loaded: champions first, then versions on trial, then the ways back and what was pinned by hand.

        One place always stays free, so that whatever does not fit is still served, only not at once. Where not all fit,
        the adapters that were asked last go first."""
        adapters = list(self.now | self._coming)
        wanted = {adapter: self._wanted(adapter) for adapter in adapters}
        if sum(map(len, wanted.values())) >= self._residents.places:
            adapters.sort(key=lambda adapter: -self.asked.get(adapter, 0.0))
        depth = max(map(len, wanted.values()), default=0)
        names = [
            f"{adapter}@{number}"
            for order in range(depth)
            for adapter in adapters
            for number in wanted[adapter][order : order + 1]
        ]
        self._residents.pin(names[: self._residents.places - 1])
        self._say_crowded()

    def _say_crowded(self) -> None:
        """Once a change of how many there are: which ones they are follows who was asked last."""
        crowded = self.without_place
        if crowded and len(crowded) != self._crowded:
            wanted = len(self._pinned_by(self.now | self._coming))
            more = f" and {len(crowded) - 3} more" if len(crowded) > 3 else ""
            log.warning(
                "%s%s: pinned, but without a place of their own, so loaded only when they are asked; "
                "SHOAL_MAX_LORAS is %d, all fit from %d on",
                ", ".join(crowded[:3]),
                more,
                self._residents.places,
                wanted + 1,
            )
        elif self._crowded and not crowded:
            log.info("every pinned version has a place of its own again")
        self._crowded = len(crowded)

    def bring_pinned(self) -> None:
        """Begin to load what is pinned and not there: new ways back, what failed a while ago, what an engine lost."""
        failures, at = self._arrivals.failures, time.monotonic()
        for name in self._residents.pinned - self._residents.ready - self._loading:
            if name not in failures or at - failures[name].at > RETRY_SECONDS:
                self._loading.add(name)
                self._background.spawn(self._bring(name))

    async def _bring(self, name: str) -> None:
        adapter, _, number = name.rpartition("@")
        try:
            await self._arrivals.bring(adapter, int(number))
        finally:
            self._loading.discard(name)

    @staticmethod
    def _pinned_by(rollouts: Mapping[str, Rollout]) -> list[str]:
        return [f"{adapter}@{number}" for adapter, rollout in rollouts.items() for number in rollout.pinned]

    def _wanted(self, adapter: str) -> list[int]:
        """The versions of an adapter that are to stay, the coming rollout's before those that still answer."""
        found = [rollout.pinned for rollout in (self._coming.get(adapter), self.now.get(adapter)) if rollout]
        return list(dict.fromkeys(number for numbers in found for number in numbers))

    def _missing(self, adapter: str, number: int | None) -> bool:
        """Whether it is to be loaded before the pointer moves. What has no place of its own is loaded when it is asked."""
        name = f"{adapter}@{number}"
        return number is not None and name in self._residents.pinned and name not in self._residents.ready

    def _point(self, rollout: Rollout) -> None:
        if not self._knows(rollout):
            self.now[rollout.adapter] = rollout
            self.changes += 1
            log.info("%s follows revision %d: champion %s", rollout.adapter, rollout.revision, rollout.champion)
            self._arrivals.forget(rollout.adapter, rollout.pinned)
            self._to_look_at.add(rollout.adapter)
            self.turn_out_retired()
        coming = self._coming.get(rollout.adapter)
        if coming is not None and self._knows(coming):
            del self._coming[rollout.adapter]

    def _knows(self, rollout: Rollout) -> bool:
        known = self.now.get(rollout.adapter)
        return known is not None and known.revision >= rollout.revision

    def _has(self, adapter: str, revision: int) -> bool:
        held = (self.now.get(adapter), self._coming.get(adapter))
        return any(rollout is not None and rollout.revision >= revision for rollout in held)

    def turn_out_retired(self) -> None:
        """A version that is retired, or that an accepted, older registry lost, answers no more, also where it is loaded: looked
        at after every move, until none is left. Not while the registry went back: what was known stands."""
        if self.went_back:
            return
        for adapter in self._to_look_at - self._looking_at:
            self._looking_at.add(adapter)
            self._background.spawn(self._turn_out(adapter))

    async def _turn_out(self, adapter: str) -> None:
        try:
            left = False
            keep = {f"{adapter}@{number}" for number in self.now[adapter].pinned}
            loaded = {name for name in self._residents.loaded if name.rpartition("@")[0] == adapter}
            for name in loaded - keep:
                out = await self._is_out(adapter, int(name.rpartition("@")[2]))
                left |= out and not await self._residents.remove(name)  # long answers: again later
            if not left:
                self._to_look_at.discard(adapter)
        finally:
            self._looking_at.discard(adapter)

    async def _is_out(self, adapter: str, number: int) -> bool:
        try:
            return (await asyncio.to_thread(self._registry.version, adapter, number)).retired
        except VersionUnknown:
            return True
