"""What a run does with the expert that it trained: register it with how it was trained, let it join the hull, and score
nobody on what it was taught."""

from __future__ import annotations

from typing import Any

from registry.errors import VersionUnknown
from registry.grow import taught
from registry.records import ExpertRef, Run, Training
from registry.registry import Registry
from registry.snapshots import read

UNBORN = ExpertRef(version=0, digest="sha256:" + 64 * "0", name="trained")
"""Stands for an expert that is not trained yet."""


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


def expected(registry: Registry, run: Run) -> Run:
    """The run as its training will leave it, as far as that can be known before: one expert more, a bill, and fewer items that
    score positions."""
    growth, snapshot = run.growth, run.snapshot
    if growth is None or snapshot is None:
        return run
    grow = run.spec.grow
    lesson = taught(read(registry.artifacts.get_json, snapshot.digest).search, grow.share, seed_of(run))
    return run.model_copy(
        update={
            "experts": (*run.experts, UNBORN),
            "growth": growth.model_copy(update={"taught": len(lesson)}),
            "item_generations": run.item_generations + grow.item_generations,
        }
    )


def seed_of(run: Run) -> int:
    """What the training draws from: its own seed, or the run's."""
    return run.spec.seed if run.spec.grow.seed is None else run.spec.grow.seed


def lessons(registry: Registry, run: Run) -> frozenset[str]:
    """The digests of all items that an expert of the run was taught, itself or what it is made of: none of them scores or
    confirms a position, as it would show what was repeated and not what was learned.

    The champion's own lessons are not among them: it is what positions are compared with, and knows them as well.
    """
    found: set[str] = set()
    opened = {run.champion.version} if run.champion else set()
    waiting = list(run.experts)
    while waiting:
        expert = waiting.pop()
        if expert.version in opened:
            continue
        opened.add(expert.version)
        try:
            version = registry.version(run.spec.adapter, expert.version)
        except VersionUnknown:
            continue  # the base as an expert of a mix, or one of another line: nobody here trained it
        if (training := version.training) is not None:
            snapshot = read(registry.artifacts.get_json, training.snapshot)
            found |= taught(snapshot.search, training.share, training.seed)
            waiting += [training.start] if training.start else []
        waiting += version.lineage.experts if version.lineage else ()
    return frozenset(found)


def scored_items(run: Run) -> int:
    """How many items a position of the run is scored on."""
    return (run.snapshot.search if run.snapshot else 0) - (run.growth.taught if run.growth else 0)
