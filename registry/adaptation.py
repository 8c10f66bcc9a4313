"""Begin a run: the same few checks for whoever asks, a caller of the API or the schedule."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from registry.errors import BadInput, Conflict, TooLittleFeedback
from registry.grow import growth
from registry.records import ExpertRef, Run, RunSpec, SnapshotRef, Version, now
from registry.snapshots import freeze

if TYPE_CHECKING:
    from registry.registry import Registry

_PAGE = 500
_LATEST = 100  # runs that are looked at to say whether an adapter is stuck
MAX_EXPERTS = 100
"""Most imports that a run starts from by itself."""
MIN_FEEDBACK = 80
"""Fewest usable items for a run: half are searched on, and the gate does not decide on fewer than thirty unseen ones."""


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
    spec = spec.filled(policy.run)
    experts = _experts(registry, spec)
    _can_grow(registry, spec)
    seen = registry.feedback.count(spec.adapter)  # first: what comes while the rest is read counts as new
    feedback = registry.feedback.all(spec.adapter)
    snapshot = freeze(spec.adapter, feedback, limit_search=spec.search_items, seed=spec.seed, at=now())
    have, need = len(snapshot.search) + len(snapshot.confirm), spec.min_feedback or MIN_FEEDBACK
    if have < need:
        raise TooLittleFeedback(spec.adapter, have=have, need=need)
    stored = registry.artifacts.put_json(snapshot.model_dump(mode="json"))
    run = Run(
        id=f"run-{secrets.token_hex(5)}",
        spec=spec,
        created_at=now(),
        created_by=by,
        rollout_revision=adapter.rollout.revision,
        champion=_reference(champion),
        experts=tuple(_reference(expert) for expert in experts),
        snapshot=SnapshotRef(digest=stored, search=len(snapshot.search), confirm=len(snapshot.confirm)),
        feedback_seen=seen,
        growth=growth(spec.grow, registry.runs.list(spec.adapter, limit=_LATEST), champion.version),
        gate=policy.gate,
    )
    return registry.runs.create(run, after=after)


def _experts(registry: Registry, spec: RunSpec) -> list[Version]:
    """The versions that the search starts from: those asked for, else every import that is not retired."""
    if spec.experts is None:
        found = _imports(registry, spec.adapter)
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
