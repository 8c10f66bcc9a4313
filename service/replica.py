"""One replica: it knows the rollouts, keeps their versions loaded, and tells the registry what it holds.

The rollouts live in memory: a request costs no round trip. A change is heard of by pub/sub, as a hint, and by polling, as the
truth: how many moves there were, and every few seconds each revision (``service/rollouts.py``). With Redis gone the last
known rollouts stand; they are on disk, too, so that a replica can start without Redis.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from registry.errors import AdapterUnknown, NotFound, RegistryDown, VersionRetired, VersionUnknown
from registry.records import Replica as ReplicaRecord
from registry.records import Rollout, now
from registry.registry import Registry
from service.arrivals import ARRIVAL_ERRORS, Arrivals
from service.background import Background
from service.known import Known
from service.leases import Lease
from service.residents import Residents
from service.rollouts import Rollouts
from service.routing import ModelId, choose
from service.wishes import Wishes

log = logging.getLogger("shoal.replica")

BEAT_TTL = 5.0
RECONCILE_SECONDS = 30.0
LEARN = 50  # version records that are looked up at a poll, for the file of last known rollouts


@dataclass(frozen=True)
class Held:
    """A version that a request holds: its name and its lease."""

    name: str
    lease: Lease


class Replica:
    """What this process serves. For one event loop; the registry is asked in threads."""

    def __init__(
        self,
        registry: Registry,
        residents: Residents,
        *,
        replica_id: str,
        poll_seconds: float,
        known: Path,
    ) -> None:
        self._registry = registry
        self._residents = residents
        self._background = Background()
        self._arrivals = Arrivals(registry, residents)
        self._rollouts = Rollouts(registry, residents, self._arrivals, self._background)
        self._wishes = Wishes(registry, residents, self._arrivals, self._background, self._beat)
        self._id = replica_id
        self._poll = poll_seconds
        self._known = Known(known)
        self._saved = (0, 0, 0)
        self._reconciled = 0.0
        self._reconciling: asyncio.Task[None] | None = None
        self._hint = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = threading.Event()
        self._listener: threading.Thread | None = None
        self.ready = False
        self.registry_down = False

    @property
    def rollouts(self) -> dict[str, Rollout]:
        """The rollouts that requests are routed by, by adapter."""
        return dict(self._rollouts.now)

    def rollout(self, adapter: str) -> Rollout | None:
        """The rollout that an adapter's requests are routed by."""
        return self._rollouts.now.get(adapter)

    @property
    def problems(self) -> dict[str, str]:
        """Adapters whose rollout in the registry cannot be followed, with the reason and the remedy."""
        return dict(self._rollouts.problems)

    @property
    def leases(self) -> dict[str, int]:
        """Answers that are being made now, by version; only versions with some."""
        return self._residents.leases

    @property
    def loaded(self) -> frozenset[str]:
        """The versions that can answer now."""
        return frozenset(self._residents.ready)

    @property
    def leftover(self) -> list[str]:
        """Versions that should have left the engine and have not; their removal is tried again at every look."""
        return sorted(self._residents.leftover)

    @property
    def places(self) -> int:
        """How many versions the engine may hold at once."""
        return self._residents.places

    async def engine_holds(self) -> list[str]:
        """The versions that the engine says it holds when it is asked now. Raises EngineError."""
        return sorted(await self._residents.held())

    @property
    def unservable(self) -> dict[str, str]:
        """Champions and other pinned versions that could not be loaded, each with the reason."""
        pinned = set(self._rollouts.pinned) if self._arrivals.failures else set()
        return {name: failure.reason for name, failure in self._arrivals.failures.items() if name in pinned}

    @property
    def without_place(self) -> list[str]:
        """Champions and other pinned versions for which the engine has too few places (``SHOAL_MAX_LORAS``)."""
        return self._rollouts.without_place

    # Life -------------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Converge on the rollouts as they are, or as they were last known; then keep up.

        The versions to keep loaded are loaded, or found unservable, when this returns. A champion that cannot be served
        keeps nobody from the others: its own adapter answers with the reason, and ``unservable`` tells."""
        try:
            await self._remember()
            await self._converge()
            await self._beat()  # from here on moves ask this replica, too; what moved before is caught up with
            await self._converge()
        except RegistryDown:
            self.registry_down = True
            if self._known.exists or not self._rollouts.now:  # it may have gone when some were read already
                await self._restore()
        self.ready = True
        listen = (asyncio.get_running_loop(),)
        self._listener = threading.Thread(target=self._listen, args=listen, name="rollout-hints", daemon=True)
        self._listener.start()
        self._tasks = [
            asyncio.create_task(self._keep_up(), name="rollouts"),
            asyncio.create_task(self._keep_beating(), name="heartbeat"),
        ]

    async def _converge(self) -> None:
        await self._rollouts.catch_up(hinted=True)
        await self._background.settled()
        self._rollouts.bring_pinned()
        await self._background.settled()

    async def stop(self) -> None:
        """Stop keeping up and say goodbye; what is being answered goes on. Safe to repeat."""
        self.ready = False
        self._stopping.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._background.cancel()
        if self._listener is not None:
            await asyncio.to_thread(self._listener.join, 3.0)  # it reads the connection that is closed next
        try:
            await asyncio.to_thread(self._save)
            await asyncio.to_thread(self._registry.replicas.gone, self._id)
        except RegistryDown:
            log.info("Redis is gone: the heartbeat of %s expires by itself", self._id)

    # Requests ---------------------------------------------------------------------------------------------------------

    def choose(self, model: ModelId, session: str | None) -> int:
        """The number of the version that ``model`` means now. Raises AdapterUnknown, NotFound."""
        if model.version is not None:
            return model.version
        if (rollout := self._rollouts.now.get(model.adapter)) is None:
            raise AdapterUnknown(model.adapter)
        if (number := choose(rollout, model.selector, session)) is None:
            place = "champion yet" if model.selector == "rollout" else f"{model.selector} now"
            raise NotFound(f"'{model.adapter}' has no {place}.", adapter=model.adapter)
        return number

    async def hold(self, model: ModelId, session: str | None) -> Held:
        """A lease on the version that ``model`` means, loaded first if it is not.

        Raises AdapterUnknown, VersionUnknown, VersionRetired, ResidentError, EngineError; RegistryDown for a version that this
        replica never heard of while Redis is gone.
        """
        number = self.choose(model, session)
        if model.adapter in self._rollouts.now:
            self._rollouts.asked[model.adapter] = time.monotonic()
        name = f"{model.adapter}@{number}"
        # No await between choosing a version and holding it: a swap cannot come between.
        if (lease := self._residents.hold(name)) is None:
            lease = await self._arrivals.lease(model.adapter, number)
        return Held(name, lease)

    # Changes ----------------------------------------------------------------------------------------------------------

    def hint(self) -> None:
        """Look at the registry now rather than at the next poll."""
        self._hint.set()

    async def take(self, rollout: Rollout) -> None:
        """Route by this rollout now, or by a later one that is known here: for the replica that made the move itself."""
        await self._rollouts.take(rollout)

    # Keeping up -------------------------------------------------------------------------------------------------------

    async def _keep_up(self) -> None:
        while True:
            hinted = self._hint.is_set()
            self._hint.clear()
            try:
                await self._rollouts.catch_up(hinted=hinted)
                await self._wishes.hear()
                self._rollouts.pin()
                self._rollouts.bring_pinned()
                self._rollouts.turn_out_retired()
                self._reconcile()
                await self._beat()
                await self._learn()
                await asyncio.to_thread(self._save)
                self.registry_down = False
            except RegistryDown as error:
                if not self.registry_down:
                    log.warning("Redis is gone, the last known rollouts stand: %s", error)
                self.registry_down = True
            except ARRIVAL_ERRORS as error:
                log.warning("%s: %s", type(error).__name__, error)
            except Exception:
                # Whatever it is, a replica that stopped following would answer with an old version for ever.
                log.exception("%s could not keep up; it goes on trying", self._id)
            # Not ``wait_for``: it forgets that it was cancelled where a hint has come by then.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll):
                    await self._hint.wait()

    def _reconcile(self) -> None:
        """Compare with what the engine holds, now and then: after any question vLLM's worker spins on its core for a second,
        so asking at every poll would keep that core busy for ever. At once while a removal has failed."""
        at = time.monotonic()
        under_way = self._reconciling is not None and not self._reconciling.done()
        if not under_way and (at - self._reconciled >= RECONCILE_SECONDS or self._residents.leftover):
            self._reconciled = at
            self._reconciling = self._background.spawn(self._compare())

    async def _compare(self) -> None:
        await self._residents.reconcile()
        # The engine may read the files of what it holds again: their copies stay, others may leave the cache.
        known, ready = dict(self._arrivals.versions), self._residents.ready
        loaded = [version.digest for version in known.values() if version.engine_name in ready]
        await asyncio.to_thread(self._registry.artifacts.keep, loaded)

    async def _keep_beating(self) -> None:
        """A load can take longer than a heartbeat lives."""
        while True:
            try:
                await self._beat()
            except RegistryDown:
                self.registry_down = True
            except Exception:
                log.exception("%s could not say that it is alive; it goes on trying", self._id)
            await asyncio.sleep(BEAT_TTL / 3)

    async def _beat(self) -> None:
        refused = self._wishes.refused
        unservable = {name: why for name, why in self.unservable.items() if name not in refused}
        record = ReplicaRecord(
            id=self._id,
            at=now(),
            holds=tuple(sorted(self._residents.ready)),
            refused=refused | unservable,
            heard=dict.fromkeys(unservable, 0) | {name: self._wishes.heard.get(name, 0) for name in refused},
            revisions={adapter: rollout.revision for adapter, rollout in self._rollouts.now.items()},
            versions=dict(self._arrivals.highest),
        )
        await asyncio.to_thread(self._registry.replicas.beat, record, ttl=BEAT_TTL)

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        for adapter in self._registry.changes():
            if self._stopping.is_set() or loop.is_closed():
                return
            if adapter is not None:
                loop.call_soon_threadsafe(self._hint.set)

    # The last known rollouts, on disk ---------------------------------------------------------------------------------

    async def _learn(self) -> None:
        """Look up the records of pinned versions that were never loaded here: without Redis they could not be found."""
        unknown = [name for name in self._rollouts.pinned if name not in self._arrivals.versions]
        for name in unknown[:LEARN]:
            adapter, _, number = name.rpartition("@")
            with contextlib.suppress(VersionRetired, VersionUnknown):
                await self._arrivals.version(adapter, int(number))

    def _save(self) -> None:
        rollouts, versions = list(self._rollouts.now.values()), list(self._arrivals.versions.values())
        highest = dict(self._arrivals.highest)
        current = (self._rollouts.changes, len(versions), sum(highest.values()))
        if current != self._saved:
            self._known.write(rollouts, versions, highest)
            self._saved = current

    async def _remember(self) -> None:
        """What this replica last knew, held against the registry: where that is behind, what was known stands."""
        if not self._known.exists:
            return
        known = await asyncio.to_thread(self._known.read)
        self._arrivals.learn(known.highest)
        self._registry.guard.remember(known.reached)
        behind = {one.adapter for one in await asyncio.to_thread(self._registry.guard.behind)}
        if behind:
            self._arrivals.versions |= {v.engine_name: v for v in known.versions if v.adapter in behind}
            self._rollouts.follow([rollout for rollout in known.rollouts if rollout.adapter in behind])
            await self._background.settled()

    async def _restore(self) -> None:
        """Start from the last known rollouts, but for those that were read: Redis is gone, and answering goes on."""
        known = await asyncio.to_thread(self._known.read)
        self._arrivals.learn(known.highest)
        self._arrivals.versions |= {version.engine_name: version for version in known.versions}
        self._rollouts.follow(known.rollouts)
        await self._background.settled()
        log.warning("Redis is gone: %s serves the rollouts it last knew", self._id)
