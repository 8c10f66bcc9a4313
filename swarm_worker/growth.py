"""What a run does with the expert that it trained: register it with how it was trained, and let it join the hull."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from registry.grow import taught
from registry.records import ExpertRef, Run, SnapshotItem, Training
from registry.registry import Registry


def joined(registry: Registry, run: Run, report: dict[str, Any]) -> Run:
    """The run with the trained expert among its experts; without one, and with the reason, where it could not be trained.

    Repeated with the same report it registers nothing new: the same bytes are the version that has them. Nothing is saved.
    """
    growth = run.growth
    if growth is None or run.snapshot is None:
        return run
    told: dict[str, Any] = {"seconds": report["seconds"]}
    spent: dict[str, Any] = {"search_seconds": run.search_seconds + report["seconds"]}  # of the same budget
    if "error" in report:
        growth = growth.model_copy(update=told | {"failure": report["error"]})
        return run.model_copy(update=spent | {"growth": growth})
    grow, seed = run.spec.grow, seed_of(run)
    training = Training(
        run_id=run.id,
        start=run.champion if grow.start == "champion" else None,
        snapshot=run.snapshot.digest,
        items=report["items"],
        share=grow.share,
        steps=grow.steps,
        rate=grow.rate,
        batch=grow.batch,
        rank=report["rank"],
        seed=seed,
        environment=report["environment"],
    )
    version, _new = registry.register_digest(
        run.spec.adapter,
        report["digest"],
        by=run.id,
        label=f"trained-{run.id.removeprefix('run-')}",
        note=f"{grow.steps} steps on {report['items']} items from {training.start.name if training.start else 'the base'}",
        origin="trained",
        training=training,
        rank=report["rank"],
        size=report["size"],
    )
    expert = ExpertRef(version=version.version, digest=version.digest, name=version.label)
    told |= {"version": version.version, "taught": report["taught"], "item_generations": report["item_generations"]}
    return run.model_copy(
        update=spent
        | {
            "experts": (*run.experts, expert),
            "growth": growth.model_copy(update=told),
            "item_generations": run.item_generations + report["item_generations"],
        }
    )


def seed_of(run: Run) -> int:
    """What the training draws from: its own seed, or the run's."""
    return run.spec.seed if run.spec.grow.seed is None else run.spec.grow.seed


def lesson_of(run: Run, search: Sequence[SnapshotItem]) -> frozenset[str]:
    """The digests of the search items that the run's own expert was trained on: no position is scored on them."""
    if run.growth is None or run.growth.version is None:
        return frozenset()
    return taught(search, run.spec.grow.share, seed_of(run))


def scored_items(run: Run) -> int:
    """How many items a position of the run is scored on."""
    return (run.snapshot.search if run.snapshot else 0) - (run.growth.taught if run.growth else 0)
