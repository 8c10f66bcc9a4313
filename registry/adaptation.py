"""Begin a run: the same few checks for whoever asks, a caller of the API or the schedule."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from pydantic import ValidationError

from registry.errors import ArtifactMissing, BadInput, Conflict, SnapshotUnknown, TooLittleFeedback
from registry.grow import beyond, growth, taught
from registry.peft_bytes import parts_of
from registry.records import ExpertRef, Run, RunSpec, Snapshot, SnapshotRef, Version, now
from registry.snapshot_filter import FEWEST
from registry.snapshots import content, freeze, read

if TYPE_CHECKING:
    from registry.registry import Registry

_PAGE = 500
_LATEST = 100  # runs that are looked at to say whether an adapter is stuck
MAX_EXPERTS = 100
"""Most imports that a run starts from by itself."""


def begin(registry: Registry, spec: RunSpec, *, by: str, after: str | None = None) -> Run:
    """Freeze a snapshot of the adapter's feedback and record a run on it, ready to be advanced.

    What the spec leaves open is the adapter's policy's. ``after``: the adapter's latest run ("" for none) when it was decided
    to begin this one; where another began since, it is refused (``Runs.create``).
    Errors: AdapterUnknown; BadInput for experts that do not exist or are too few, or an adapter that has no champion;
    TooLittleFeedback; RunGoing. On any of them nothing is left behind but the snapshot's bytes, which no record names.
    """
    adapter = registry.adapter(spec.adapter)
    if adapter.rollout.champion is None:
        raise Conflict(f"'{spec.adapter}' has no champion to improve on. Import a version first.", adapter=spec.adapter)
    champion = registry.version(spec.adapter, adapter.rollout.champion)
    policy, _ = registry.policy(spec.adapter)
    asked_to_grow = "grow" in spec.model_fields_set
    spec = spec.filled(policy.run)
    experts = _experts(registry, spec, champion)
    _can_grow(registry, spec)
    seen = _seen(registry, spec)
    snapshot = frozen_for(registry, spec)
    have, need = len(snapshot.search) + len(snapshot.confirm), spec.min_feedback or FEWEST
    if have < need:
        raise TooLittleFeedback(spec.adapter, have=have, need=need, counts=snapshot.counts)
    grows = growth(spec.grow, registry.runs.list(spec.adapter, limit=_LATEST), champion.version)
    if asked_to_grow and grows is not None:
        # A run whose policy asks for it searches without, and says so: nobody is there to ask again.
        _can_pay(spec, experts=len(experts) + 1, snapshot=snapshot)
    run = Run(
        id=f"run-{secrets.token_hex(5)}",
        spec=spec,
        created_at=now(),
        created_by=by,
        rollout_revision=adapter.rollout.revision,
        champion=_reference(champion),
        experts=tuple(_reference(expert) for expert in experts),
        snapshot=SnapshotRef(digest=snapshot.digest, search=len(snapshot.search), confirm=len(snapshot.confirm)),
        feedback_seen=seen,
        growth=grows,
        gate=policy.gate,
        guards=registry.suites.resolve(spec.adapter, policy.guards),
    )
    return registry.runs.create(run, after=after)


def frozen_for(registry: Registry, spec: RunSpec) -> Snapshot:
    """The snapshot that a run of ``spec`` is on, kept as an artifact: a new one, or the earlier one that it names."""
    if spec.snapshot_digest is not None:
        parts_of(spec.snapshot_digest)
        registry.artifacts.announce(spec.snapshot_digest)  # before it is looked for: no collection takes it now
        snapshot = stored_snapshot(registry, spec.snapshot_digest)
        if snapshot.adapter != spec.adapter:
            raise BadInput(
                f"Snapshot {snapshot.digest} is of '{snapshot.adapter}', not of '{spec.adapter}'.",
                field="snapshot_digest",
            )
        return snapshot
    snapshot = freeze(
        spec.adapter,
        registry.feedback.all(spec.adapter),
        limit_search=spec.search_items,
        limit_confirm=spec.confirm_items,
        seed=spec.seed,
        at=now(),
        chosen=spec.snapshot,
    )
    registry.artifacts.put_json(content(snapshot))
    return snapshot


def _seen(registry: Registry, spec: RunSpec) -> int:
    """How much feedback the run leaves to be new for the next: what comes while it is read is; a run on an earlier snapshot
    has seen no more than the run before it."""
    if spec.snapshot_digest is None:
        return registry.feedback.count(spec.adapter)
    return next((run.feedback_seen for run in registry.runs.list(spec.adapter, limit=1)), 0)


def stored_snapshot(registry: Registry, name: str) -> Snapshot:
    """The snapshot of that digest. ``SnapshotUnknown`` where there is none, or something else lies under it."""
    parts_of(name)
    try:
        return read(registry.artifacts.get_json, name)
    except ArtifactMissing as missing:
        if not isinstance(missing.__cause__, FileNotFoundError):
            raise  # it is there, and damaged
        raise SnapshotUnknown(name) from missing
    except (ValidationError, TypeError) as no_snapshot:
        raise SnapshotUnknown(name) from no_snapshot


def _experts(registry: Registry, spec: RunSpec, champion: Version) -> list[Version]:
    """The versions that the search starts from: those asked for, else every import that is not retired, and the champion
    where it lies beyond their hull: a search that cannot reach it has little chance to better it."""
    if spec.experts is None:
        found = _imports(registry, spec.adapter)
        if spec.space == "delta" and beyond(champion, found):
            found.append(champion)
    else:
        found = [registry.version(spec.adapter, number) for number in dict.fromkeys(spec.experts)]
    if len(found) < 2:
        raise BadInput(
            f"A search needs at least two experts, '{spec.adapter}' has {len(found)}. Import more versions.",
            field="experts",
        )
    return found


def _can_grow(registry: Registry, spec: RunSpec) -> None:
    """BadInput where a trained expert could not join: the search would find out after the training was paid for."""
    if spec.grow.when == "never":
        return
    if spec.space != "delta":
        raise BadInput(
            "A run grows an expert in space 'delta' only: mixing factors needs experts that share theirs.", field="grow"
        )
    if spec.max_item_generations is not None and spec.grow.item_generations >= spec.max_item_generations:
        raise BadInput(
            f"The training alone takes {spec.grow.item_generations} item-generations, the budget is "
            f"{spec.max_item_generations} (max_item_generations). Fewer grow.steps, or a larger budget.",
            field="grow.steps",
        )
    if (spec.grow.rank or 0) > registry.settings.max_lora_rank:
        raise BadInput(
            f"grow.rank is {spec.grow.rank}, this service takes up to {registry.settings.max_lora_rank} "
            "(SHOAL_MAX_LORA_RANK).",
            field="grow.rank",
        )


def _can_pay(spec: RunSpec, *, experts: int, snapshot: Snapshot) -> None:
    """BadInput where the budget holds the training, and not the scoring of each expert after it."""
    if spec.max_item_generations is None:
        return
    seed = spec.seed if spec.grow.seed is None else spec.grow.seed
    cost = experts * (len(snapshot.search) - len(taught(snapshot.search, spec.grow.share, seed)))
    if spec.grow.item_generations + cost > spec.max_item_generations:
        raise BadInput(
            f"The training takes {spec.grow.item_generations} item-generations and the scoring of {experts} experts {cost}, the "
            f"budget is {spec.max_item_generations} (max_item_generations). Fewer grow.steps, or a larger budget.",
            field="grow.steps",
        )


def _imports(registry: Registry, adapter: str) -> list[Version]:
    """Its imports that are not retired, oldest first; BadInput where they are too many to span one search."""
    found: list[Version] = []
    before: int | None = None
    while page := registry.versions(adapter, _PAGE, before):
        found += [version for version in page if version.origin == "import" and not version.retired]
        if len(found) > MAX_EXPERTS:
            raise BadInput(
                f"'{adapter}' has more than {MAX_EXPERTS} imports, too many to search between. Name those to start from in "
                "`experts`, or retire some: shoal retire.",
                field="experts",
            )
        before = page[-1].version
    return found[::-1]


def _reference(version: Version) -> ExpertRef:
    return ExpertRef(version=version.version, digest=version.digest, name=version.label or f"v{version.version}")
