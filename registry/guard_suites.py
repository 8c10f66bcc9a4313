"""The suites of an adapter by name. Their bytes are content-addressed, beside the weights; here is what each is called.

A name may be given to other items: runs that began before keep the bytes that they began with, and a policy that names a
digest keeps that one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from registry.artifacts import ArtifactStore
from registry.connection import RegistryRedis
from registry.errors import ArtifactMissing, BadInput, Conflict, SuiteUnknown
from registry.guard_policy import Guard, GuardPolicy, resolved
from registry.keys import Keys
from registry.records import now
from registry.store import Store
from registry.suites import Suite, SuiteRef, suite_name

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class GuardSuites:
    """One hash an adapter: name -> SuiteRef. Every call raises ``AdapterUnknown`` for an adapter that is not there."""

    def __init__(self, client: RegistryRedis, keys: Keys, artifacts: ArtifactStore, store: Store) -> None:
        self._redis = client
        self._keys = keys
        self._artifacts = artifacts
        self._store = store

    def put(self, adapter: str, name: str, suite: Suite, *, by: str) -> tuple[SuiteRef, bool]:
        """``suite`` under ``name``, and whether that changed anything. BadInput where a policy asks of the name what so few
        items cannot show."""
        suite_name(name)
        policy = self._store.rollout(adapter).policy
        digest = self._artifacts.put_json(suite.model_dump(mode="json", by_alias=True))
        for guard in policy.guards:
            if guard.suite == name:
                resolved(guard, digest, len(suite.items))
        held = self._redis.hget(self._keys.guards(adapter), name)
        if held and (ref := SuiteRef.model_validate_json(held)).digest == digest:
            return ref, False
        ref = SuiteRef(
            name=name,
            digest=digest,
            kind=suite.kind,
            utility=suite.utility,
            items=len(suite.items),
            added_at=now(),
            added_by=by,
        )
        self._redis.hset(self._keys.guards(adapter), name, ref.model_dump_json())
        return ref, True

    def list(self, adapter: str) -> list[SuiteRef]:
        """By name."""
        self._store.rollout(adapter)
        held = self._redis.hgetall(self._keys.guards(adapter))
        return [SuiteRef.model_validate_json(held[name]) for name in sorted(held)]

    def get(self, adapter: str, name: str) -> SuiteRef:
        """SuiteUnknown names those there are."""
        self._store.rollout(adapter)
        held = self._redis.hget(self._keys.guards(adapter), name)
        if not held:
            raise SuiteUnknown(adapter, name, [ref.name for ref in self.list(adapter)])
        return SuiteRef.model_validate_json(held)

    def read(self, digest: str) -> Suite:
        """The suite with these bytes. ``ArtifactMissing``, or BadInput where they are no suite."""
        return Suite.read(self._artifacts.get_json(digest))

    def remove(self, adapter: str, name: str) -> SuiteRef:
        """The name stands for nothing any more; the bytes stay as long as a run names them. Conflict while the policy does."""
        ref = self.get(adapter, name)
        if any(guard.suite == name for guard in self._store.rollout(adapter).policy.guards):
            raise Conflict(
                f"The policy of '{adapter}' names the suite '{name}'. Take it out of the policy's 'guards' first.",
                adapter=adapter,
                suite=name,
            )
        self._redis.hdel(self._keys.guards(adapter), name)
        return ref

    def resolve(self, adapter: str, guards: Sequence[GuardPolicy]) -> tuple[Guard, ...]:
        """The guards with their suites' bytes, as they are now. BadInput for a suite that is not there, one that is named
        twice, or a tolerance that its items cannot show to be kept."""
        names = [guard.suite for guard in guards]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise BadInput(f"'guards' names {', '.join(twice)} twice.", field="guards")
        return tuple(self._resolved(adapter, guard) for guard in guards)

    def _resolved(self, adapter: str, guard: GuardPolicy) -> Guard:
        try:
            if _DIGEST.fullmatch(guard.suite):
                return resolved(guard, guard.suite, len(self.read(guard.suite).items))
            ref = self.get(adapter, guard.suite)
        except (SuiteUnknown, ArtifactMissing) as unknown:
            raise BadInput(f"'guards': {unknown.message}", field="guards") from unknown
        return resolved(guard, ref.digest, ref.items)
