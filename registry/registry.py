"""The registry: adapters, their versions and rollouts, over one store of records and one place for weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from registry.api_keys import ApiKeys
from registry.arrivals import Arrivals
from registry.artifacts import Artifact, ArtifactStore
from registry.base_shape import BaseShape
from registry.connection import RegistryRedis, connect
from registry.errors import AdapterUnknown, ArtifactMissing, BadInput, NotReady, RolloutMoved, VersionRetired
from registry.feedback import FeedbackLog
from registry.figures import Figures
from registry.guard import Guard
from registry.guard_suites import GuardSuites
from registry.history import LiveAt, live_at
from registry.inspection import AdapterFacts, inspect
from registry.interactions import Interactions
from registry.keys import Keys
from registry.lineage import lineage_tree
from registry.moves import ATTEMPTS, How, Moves
from registry.policy import Policy
from registry.records import ADAPTER_NAME, Adapter, Event, Lineage, Origin, Rollout, Training, Version, now
from registry.replicas import Readiness, Replicas
from registry.settings import RegistrySettings
from registry.store import Reached, Store
from registry.stores.redis import RedisStore
from registry.text import plain
from registry.workers import Workers

if TYPE_CHECKING:
    from registry.runs import Runs

_POLL_SECONDS = 0.1
_WISH_SECONDS = 15.0  # a wish is made again for as long as somebody waits


class Registry(Moves):
    """What services, workers and commands use; ``Registry.open(settings)`` makes one. Safe for threads.

    The moves (promote, roll_back, start_canary, end_canary, pin, unpin, retire, set_policy) are in ``registry/moves.py``.
    Only errors of ``registry/errors.py`` leave it; ``RegistryDown`` when Redis is away.
    """

    def __init__(
        self,
        store: Store,
        artifacts: ArtifactStore,
        *,
        feedback: FeedbackLog,
        figures: Figures,
        interactions: Interactions,
        replicas: Replicas,
        guard: Guard,
        suites: GuardSuites,
        runs: Runs,
        workers: Workers,
        api_keys: ApiKeys,
        redis: RegistryRedis,
        settings: RegistrySettings,
    ) -> None:
        super().__init__(store)
        self.artifacts = artifacts
        self.feedback = feedback
        self.figures = figures
        self.interactions = interactions
        self.replicas = replicas
        self.guard = guard
        self.suites = suites
        self.runs = runs
        self.workers = workers
        self.api_keys = api_keys
        self.redis = redis
        self.settings = settings
        self._base: BaseShape | None = None

    @classmethod
    def open(cls, settings: RegistrySettings | None = None) -> Registry:
        """A registry on the settings' Redis and artifact place. Nothing is sent yet: ``ping`` asks."""
        from registry.runs import Runs  # runs know the registry's records, the registry only opens them

        settings = settings or RegistrySettings.load()
        keys = Keys(settings.namespace)
        client = connect(settings.redis_url)
        store, replicas = RedisStore(client, keys), Replicas(client, keys)
        artifacts = ArtifactStore(
            settings.artifacts_url,
            settings.cache_dir,
            cache_bytes=settings.cache_bytes,
            announce=Arrivals(client, keys).announce,
        )
        return cls(
            store,
            artifacts,
            feedback=FeedbackLog(client, keys),
            figures=Figures(client, keys),
            interactions=Interactions(client, keys, settings.interactions_days),
            replicas=replicas,
            guard=Guard(client, keys, store, replicas),
            suites=GuardSuites(client, keys, artifacts, store),
            runs=Runs(client, keys),
            workers=Workers(client, keys),
            api_keys=ApiKeys(client, keys),
            redis=client,
            settings=settings,
        )

    def close(self) -> None:
        """Gives the connections back."""
        self.redis.close()

    def ping(self) -> None:
        """Answers, or raises ``RegistryDown``."""
        self.store.ping()

    # Reading -----------------------------------------------------------------------------------------------------

    def adapters(self, limit: int | None = None, after: str = "") -> list[Adapter]:
        """By name: every adapter, or up to ``limit`` behind the name ``after``."""
        return self.store.adapters(limit, after)

    def adapter(self, name: str) -> Adapter:
        return self.store.adapter(name)

    def version(self, adapter: str, version: int) -> Version:
        return self.store.version(adapter, version)

    def versions(self, adapter: str, limit: int | None = None, before: int | None = None) -> list[Version]:
        """Newest first: every version, or up to ``limit`` below the number ``before``."""
        return self.store.versions(adapter, limit, before)

    def newest(self, limit: int) -> dict[str, list[int]]:
        """The numbers of every adapter's newest ``limit`` versions, without those that are retired."""
        return self.store.newest(limit)

    def rollout(self, adapter: str) -> Rollout:
        return self.store.rollout(adapter).rollout

    def rollout_at(self, adapter: str, at: datetime) -> LiveAt:
        """Which versions answered at a moment, and the event that had made it so. See ``registry/history.py``."""
        return live_at(self.store, adapter, at)

    def policy(self, adapter: str) -> tuple[Policy, int]:
        """The adapter's policy, and the rollout's revision that it stands at. Never set: every field's default."""
        seen = self.store.rollout(adapter)
        return seen.policy, seen.rollout.revision

    def policies(self) -> dict[str, Policy]:
        """The policy of every adapter for which one was set."""
        return self.store.policies()

    def reached(self) -> dict[str, Reached]:
        """How far every adapter is: its rollout's revision and its highest version number."""
        return self.store.reached()

    def moves_made(self) -> int:
        """Another number after every move: what a replica polls, to ask for the revisions only then. See ``Store.moves_made``."""
        return self.store.moves_made()

    def changes(self, timeout: float = 1.0) -> Iterator[str | None]:
        """Names of adapters that changed, as hints; None after ``timeout`` silent seconds. See ``Store.changes``."""
        return self.store.changes(timeout)

    def history(self, adapter: str, limit: int = 100, before: int | None = None) -> list[Event]:
        """Events, newest first; ``before`` is the ``number`` of the last one of the page before."""
        return self.store.history(adapter, limit, before)

    def lineage(self, adapter: str, version: int) -> dict[str, Any]:
        """What a version is made of, as a tree: each node a version, under ``experts`` those it was mixed from.

        See ``registry/lineage.py``.
        """
        return lineage_tree(lambda number: self.version(adapter, number), version)

    # Adding ------------------------------------------------------------------------------------------------------

    def create_adapter(self, name: str, *, by: str) -> Adapter:
        """An adapter without versions. Repeated: the one there is."""
        if not ADAPTER_NAME.fullmatch(name):
            raise BadInput(
                f"'{name[:80]}' is not an adapter name: lower-case letters, digits, '.', '_', '-', at most 64.",
                field="name",
            )
        self.guard.check()
        at = now()
        rollout = Rollout(adapter=name, revision=0, moved_at=at)
        self.store.create(rollout, Event(kind="created", adapter=name, at=at, by=by, revision=0, live=rollout.live))
        return self.store.adapter(name)

    def register(
        self,
        adapter: str,
        folder: Path,
        *,
        by: str,
        label: str = "",
        note: str = "",
        origin: Origin = "import",
        lineage: Lineage | None = None,
        training: Training | None = None,
        source: str = "",
    ) -> tuple[Version, bool]:
        """Adds the PEFT folder as the next version: inspect, store, record. The adapter is created when it is missing.

        Answers the version and True; bytes that a version of the adapter has already: that version and False.
        ``AdapterRefused`` with the reason: nothing was stored.
        """
        _readable(label, note)
        artifact, facts = self.keep(folder)
        return self.register_digest(
            adapter,
            artifact.digest,
            by=by,
            label=label,
            note=note,
            origin=origin,
            lineage=lineage,
            training=training,
            source=source,
            rank=facts.rank,
            size=artifact.size,
        )

    def keep(self, folder: Path) -> tuple[Artifact, AdapterFacts]:
        """Inspects a PEFT folder and stores it, without a version yet: the one door for uploads, imports and search results.

        ``AdapterRefused`` with the reason: nothing was stored.
        """
        facts = inspect(
            folder, base=self.base_shape(), max_rank=self.settings.max_lora_rank, max_bytes=self.settings.max_bytes
        )
        return self.artifacts.put_folder(folder), facts

    def register_digest(
        self,
        adapter: str,
        digest: str,
        *,
        by: str,
        label: str = "",
        note: str = "",
        origin: Origin = "import",
        lineage: Lineage | None = None,
        training: Training | None = None,
        source: str = "",
        rank: int,
        size: int,
    ) -> tuple[Version, bool]:
        """Adds bytes that ``keep`` stored. Else as ``register``."""
        _readable(label, note)
        self.artifacts.announce(digest)
        if not self.artifacts.has(digest):
            raise ArtifactMissing(digest, f"{self.artifacts.url} does not hold it")
        self.guard.check()
        for _ in range(ATTEMPTS):
            seen = self._adapter_or_new(adapter, by)
            at = now()
            version = Version(
                adapter=adapter,
                version=seen.versions + 1,
                digest=digest,
                label=label,
                origin=origin,
                rank=rank,
                size=size,
                created_at=at,
                created_by=by,
                note=note,
                lineage=lineage,
                training=training,
                source=source,
            )
            registered = Event(
                kind="registered",
                adapter=adapter,
                at=at,
                by=by,
                reason=note,
                version=version.version,
                revision=seen.rollout.revision,
                details={"digest": digest, "label": label, "origin": origin} | ({"source": source} if source else {}),
            )
            if added := self.store.add_version(version, registered):
                self.guard.remember({adapter: Reached(0, added[0].version)})
                return added
        raise RuntimeError(f"no number was free for a version of '{adapter}' in {ATTEMPTS} attempts")

    def base_shape(self) -> BaseShape | None:
        """The base model that adapters must fit; read once. None: the settings name none."""
        if self._base is None and self.settings.base:
            self._base = BaseShape.find(self.settings.base)
        return self._base

    # Replicas ----------------------------------------------------------------------------------------------------

    def ready(self, adapter: str, version: int, timeout: float = 60.0) -> Readiness:
        """Asks every live replica to get the version ready and waits until all are.

        ``NotReady``, with the reason of each, when one refuses or ``timeout`` seconds are over. No live replica, and none
        that was until just now: ready at once, there is nobody to ask. The wish stands for some seconds more, so that the
        version stays loaded until the caller's move; who has moved takes it back (``replicas.withdraw``), else versions of
        moves long made push each other out.
        """
        if self.version(adapter, version).retired:
            raise VersionRetired(adapter, version)
        deadline = time.monotonic() + timeout
        first = last = self.replicas.ask(adapter, version, ttl=_WISH_SECONDS)
        again = time.monotonic() + _WISH_SECONDS / 3
        while True:
            seen = self.replicas.readiness(adapter, version, first)
            if seen.complete:
                return replace(seen, asked=last)
            if seen.refused or time.monotonic() >= deadline:
                self.replicas.withdraw(adapter, version, last)
                late = dict.fromkeys(seen.waiting, f"not ready within {timeout:g} s")
                raise NotReady(adapter, version, seen.refused or late)
            if time.monotonic() >= again:  # nobody else's withdrawal ends this one's
                last = self.replicas.ask(adapter, version, ttl=_WISH_SECONDS)
                again = time.monotonic() + _WISH_SECONDS / 3
            time.sleep(_POLL_SECONDS)

    def start_canary(self, adapter: str, version: int, share: float | None = None, **how: Any) -> Rollout:
        """As ``Moves.start_canary``; the event carries the sums of both versions, which the trial is decided from. They are read
        before the move, which is made from the revision that they were read at: they are those of the champion that it finds.
        """
        for _ in range(ATTEMPTS):
            seen = self.rollout(adapter)
            sums = self.figures.sums(adapter, [number for number in (seen.champion, version) if number is not None])
            begin = {"sums": {str(number): of for number, of in sums.items()}, "feedback": self.feedback.count(adapter)}
            told = {**how, "details": {**(how.get("details") or {}), **begin}}
            if how.get("expected_revision") is not None:
                return super().start_canary(adapter, version, share, **told)
            try:
                return super().start_canary(adapter, version, share, **told | {"expected_revision": seen.revision})
            except RolloutMoved:
                continue
        raise RolloutMoved(adapter, expected=seen.revision, actual=self.rollout(adapter).revision)

    def set_policy(
        self, adapter: str, policy: Policy, *, check: Callable[[], object] = lambda: None, **how: Unpack[How]
    ) -> Rollout:
        """As ``Moves.set_policy``; BadInput for a guard whose suite is not there, or cannot show its tolerance to be kept."""

        def checked() -> None:
            check()
            self.suites.resolve(adapter, policy.guards)

        return super().set_policy(adapter, policy, check=checked, **how)

    def _make(self, *args: Any, **how: Any) -> Rollout:
        """Every move: none in a registry that went back."""
        self.guard.check()
        after = super()._make(*args, **how)
        self.guard.remember({after.adapter: Reached(after.revision, 0)})
        return after

    def _adapter_or_new(self, name: str, by: str) -> Adapter:
        try:
            return self.store.adapter(name)
        except AdapterUnknown:
            return self.create_adapter(name, by=by)


def _readable(label: str, note: str) -> None:
    plain(label, "label", 64)
    plain(note, "note", 2000)
