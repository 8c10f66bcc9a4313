"""One replica: it knows the rollouts, keeps their versions loaded, and tells the registry what it holds.

The rollouts live in memory: a request costs no round trip. A change is heard of by pub/sub, as a hint, and by polling the
revisions, as the truth. A version is loaded before the pointer moves to it. With Redis gone the last known rollouts stand; they
are on disk, too, so that a replica can start without Redis.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from registry.errors import AdapterUnknown, NotFound, RegistryDown, ShoalError, VersionRetired
from registry.files import write_atomically
from registry.records import Replica as ReplicaRecord
from registry.records import Rollout, Version, now
from registry.registry import Registry
from service.engine import Engine, EngineError
from service.leases import Lease
from service.residents import ResidentError, Residents
from service.routing import ModelId, choose

log = logging.getLogger("shoal.replica")

BEAT_TTL = 5.0
REFUSAL_SECONDS = 60.0
RECONCILE_SECONDS = 30.0


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
        engine: Engine,
        residents: Residents,
        *,
        replica_id: str,
        poll_seconds: float,
        known: Path,
    ) -> None:
        self._registry = registry
        self._engine = engine
        self._residents = residents
        self._id = replica_id
        self._poll = poll_seconds
        self._known = known
        self._rollouts: dict[str, Rollout] = {}
        self._versions: dict[str, Version] = {}
        self._refused: dict[str, str] = {}
        self._refused_at: dict[str, float] = {}
        self._reconciled = 0.0
        self._hint = asyncio.Event()
        self._changing = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = threading.Event()
        self._listener: threading.Thread | None = None
        self.ready = False
        self.registry_down = False

    @property
    def rollouts(self) -> dict[str, Rollout]:
        """The rollouts that requests are routed by, by adapter."""
        return dict(self._rollouts)

    @property
    def leases(self) -> dict[str, int]:
        """Answers that are being made now, by version; only versions with some."""
        return self._residents.leases

    # Life -------------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Converge on the rollouts as they are, or as they were last known; then keep up. Raises when a champion cannot be
        served: a replica that answers with something else would be worse than none."""
        try:
            await self._catch_up(strict=True)
        except RegistryDown:
            self.registry_down = True
            await self._restore()
        self.ready = True
        listen = (asyncio.get_running_loop(),)
        self._listener = threading.Thread(target=self._listen, args=listen, name="rollout-hints", daemon=True)
        self._listener.start()
        self._tasks = [
            asyncio.create_task(self._keep_up(), name="rollouts"),
            asyncio.create_task(self._keep_beating(), name="heartbeat"),
        ]

    async def stop(self) -> None:
        """Stop keeping up and say goodbye; safe to repeat."""
        self.ready = False
        self._stopping.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._listener is not None:
            await asyncio.to_thread(self._listener.join, 3.0)  # it reads the connection that is closed next
        try:
            await asyncio.to_thread(self._registry.replicas.gone, self._id)
        except RegistryDown:
            log.info("Redis is gone: the heartbeat of %s expires by itself", self._id)

    # Requests ---------------------------------------------------------------------------------------------------------

    async def hold(self, model: ModelId, session: str | None) -> Held:
        """A lease on the version that ``model`` means, loaded first if it is not.

        Raises AdapterUnknown, VersionUnknown, VersionRetired, ResidentError, EngineError; RegistryDown for a version that this
        replica never heard of while Redis is gone.
        """
        number = model.version
        if number is None:
            rollout = self._rollouts.get(model.adapter)
            if rollout is None:
                raise AdapterUnknown(model.adapter)
            number = choose(rollout, model.selector, session)
            if number is None:
                raise NotFound(f"'{model.adapter}' has no {model.selector} now.", adapter=model.adapter)
        name = f"{model.adapter}@{number}"
        # No await between choosing a version and holding it: a swap cannot come between.
        if (lease := self._residents.hold(name)) is None:
            version = await self._version(model.adapter, number)
            lease = await self._residents.lease(name, await self._path(version))
        return Held(name, lease)

    # Changes ----------------------------------------------------------------------------------------------------------

    def hint(self) -> None:
        """Look at the registry now rather than at the next poll."""
        self._hint.set()

    async def converge(self, adapter: str) -> None:
        """Take in the adapter's rollout now: for the replica that made the move itself."""
        await self._take(await asyncio.to_thread(self._registry.rollout, adapter))

    async def _catch_up(self, *, strict: bool = False) -> None:
        revisions = await asyncio.to_thread(self._registry.revisions)
        for adapter, revision in revisions.items():
            known = self._rollouts.get(adapter)
            if known is None or known.revision < revision:
                try:
                    await self._take(await asyncio.to_thread(self._registry.rollout, adapter))
                except (ShoalError, ResidentError, EngineError) as error:
                    if strict or isinstance(error, RegistryDown):
                        raise
                    log.warning("%s cannot follow %s to revision %d: %s", self._id, adapter, revision, error)

    async def _take(self, rollout: Rollout) -> None:
        """Load what the rollout needs, then move the pointer; what it no longer needs may be evicted from then on."""
        async with self._changing:
            known = self._rollouts.get(rollout.adapter)
            if known is not None and known.revision >= rollout.revision:
                return
            after = {**self._rollouts, rollout.adapter: rollout}
            self._residents.pin(self._pins([rollout, *self._rollouts.values()]))
            try:
                if rollout.champion is not None:
                    await self._ensure(rollout.adapter, rollout.champion)
            except Exception:
                self._residents.pin(self._pins(self._rollouts.values()))
                raise
            self._rollouts = after
            self._residents.pin(self._pins(after.values()))
            log.info(
                "%s follows %s to revision %d: champion %s",
                self._id,
                rollout.adapter,
                rollout.revision,
                rollout.champion,
            )
        await asyncio.to_thread(self._remember)
        for number in rollout.pinned:
            await self._prepare(rollout.adapter, number)

    async def _prepare(self, adapter: str, number: int) -> None:
        """Get a version ready if it can be; what cannot is told to the registry with its reason."""
        name = f"{adapter}@{number}"
        if self._recently_refused(name):
            return
        try:
            await self._ensure(adapter, number)
        except (ShoalError, ResidentError, EngineError) as error:
            self._refused[name] = getattr(error, "reason", None) or str(error)
            self._refused_at[name] = asyncio.get_running_loop().time()
            log.warning("%s cannot serve %s: %s", self._id, name, error)
        else:
            self._refused.pop(name, None)

    def _pins(self, rollouts: Iterable[Rollout]) -> list[str]:
        """Whom to keep loaded: champions first, then versions on trial, then the ways back; one place always stays free, so
        that whatever does not fit is still served, only not at once."""
        places = self._engine.settings.max_loras - 1
        rollouts = list(rollouts)
        wanted = [
            f"{rollout.adapter}@{number}"
            for order in range(3)
            for rollout in rollouts
            for number in rollout.pinned[order : order + 1]
        ]
        return list(dict.fromkeys(wanted))[:places]

    def _recently_refused(self, name: str) -> bool:
        """A refusal stands for a while, so that whoever asked can read it; then the version is tried again."""
        at = self._refused_at.get(name)
        return name in self._refused and at is not None and asyncio.get_running_loop().time() - at < REFUSAL_SECONDS

    async def _ensure(self, adapter: str, number: int) -> None:
        name = f"{adapter}@{number}"
        if name not in self._residents.ready:
            version = await self._version(adapter, number)
            await self._residents.ensure(name, await self._path(version))

    async def _version(self, adapter: str, number: int) -> Version:
        """A version's record; asked for once, because it never changes (a retired one is refused where it is looked up)."""
        name = f"{adapter}@{number}"
        if (known := self._versions.get(name)) is not None:
            return known
        version = await asyncio.to_thread(self._registry.version, adapter, number)
        if version.retired:
            raise VersionRetired(adapter, number)
        self._versions[name] = version
        return version

    async def _path(self, version: Version) -> Path:
        return await asyncio.to_thread(self._registry.artifacts.fetch, version.digest)

    # Keeping up -------------------------------------------------------------------------------------------------------

    async def _keep_up(self) -> None:
        while True:
            self._hint.clear()
            try:
                await self._catch_up()
                for adapter, number in await asyncio.to_thread(self._registry.replicas.wanted):
                    await self._prepare(adapter, number)
                await self._reconcile()
                await self._beat()
                self.registry_down = False
            except RegistryDown as error:
                if not self.registry_down:
                    log.warning("Redis is gone, the last known rollouts stand: %s", error)
                self.registry_down = True
            except (ShoalError, ResidentError, EngineError) as error:
                log.warning("%s: %s", type(error).__name__, error)
            except Exception:
                # Whatever it is, a replica that stopped following would answer with an old version for ever.
                log.exception("%s could not keep up; it goes on trying", self._id)
            try:
                await asyncio.wait_for(self._hint.wait(), timeout=self._poll)
            except TimeoutError:
                continue

    async def _reconcile(self) -> None:
        """Compare with what the engine holds, now and then: after any question vLLM's worker spins on its core for a second,
        so asking at every poll would keep that core busy for ever."""
        at = asyncio.get_running_loop().time()
        if at - self._reconciled >= RECONCILE_SECONDS:
            self._reconciled = at
            await self._residents.reconcile()

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
        record = ReplicaRecord(
            id=self._id,
            at=now(),
            holds=tuple(sorted(self._residents.ready)),
            refused=dict(self._refused),
            revisions={adapter: rollout.revision for adapter, rollout in self._rollouts.items()},
        )
        await asyncio.to_thread(self._registry.replicas.beat, record, ttl=BEAT_TTL)

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        for adapter in self._registry.changes():
            if self._stopping.is_set() or loop.is_closed():
                return
            if adapter is not None:
                loop.call_soon_threadsafe(self._hint.set)

    # The last known rollouts, on disk ---------------------------------------------------------------------------------

    def _remember(self) -> None:
        rollouts = list(self._rollouts.values())
        names = {f"{rollout.adapter}@{number}" for rollout in rollouts for number in rollout.pinned}
        content = {
            "rollouts": [rollout.model_dump(mode="json") for rollout in rollouts],
            "versions": [v.model_dump(mode="json") for name, v in list(self._versions.items()) if name in names],
        }
        write_atomically(self._known, json.dumps(content).encode())

    async def _restore(self) -> None:
        """Start from the last known rollouts: Redis is gone, and answering goes on."""
        if not self._known.exists():
            raise RegistryDown("and this replica has no last known rollouts to start from")
        content = json.loads(self._known.read_bytes())
        for value in content["versions"]:
            version = Version.model_validate(value)
            self._versions[version.engine_name] = version
        for value in content["rollouts"]:
            await self._take(Rollout.model_validate(value))
        log.warning("Redis is gone: %s serves the rollouts it last knew", self._id)
