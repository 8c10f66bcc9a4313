"""Train a run's own expert: gradient steps on a part of its search items, from the champion or from the base."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from registry.errors import BadInput
from registry.grow import FEWEST_TAUGHT, RANK, taught
from registry.records import Run, SnapshotItem
from registry.registry import Registry
from swarm_worker.confirm import rated
from swarm_worker.environment import here
from swarm_worker.expert import read_expert
from swarm_worker.fine_tuning import fine_tune
from swarm_worker.growth import seed_of
from swarm_worker.hold import Unwanted
from swarm_worker.utilities import UTILITIES


def train(
    registry: Registry,
    run: Run,
    search: Sequence[SnapshotItem],
    usable: Callable[[SnapshotItem], bool],
    *,
    goes_on: Callable[[], bool] = lambda: True,
) -> dict[str, Any]:
    """Train, inspect and store the expert that the run's ``grow`` asks for; the report of it.

    ``search``: the search half of the run's snapshot, and all that is read of it; ``usable``: whether the base can read an
    item; ``goes_on``: asked before each step, whether the expert is still wanted. The same run and snapshot give the same
    bytes on the same type of machine. ``BadInput`` for too few good answers, ``ValueError`` for a training that diverges,
    ``AdapterRefused`` as for an upload, ``Unwanted``.
    """
    grow, champion = run.spec.grow, run.champion
    base, highest = registry.settings.base, registry.settings.max_lora_rank
    if base is None or champion is None:
        raise BadInput("A run that grows needs a base model and a champion.", field="grow")
    lesson = taught(search, grow.share, seed_of(run))
    items = [item for item in search if item.digest in lesson and usable(item)]
    if len(items) < FEWEST_TAUGHT:
        raise BadInput(
            f"An expert is trained on {FEWEST_TAUGHT} items with a good answer or more, here are {len(items)}.",
            field="grow",
        )

    def wanted() -> None:
        if not goes_on():
            raise Unwanted(f"run {run.id} does not need its expert any more")

    start = registry.artifacts.fetch(champion.digest)
    with tempfile.TemporaryDirectory(prefix="shoal-trained-") as scratch:
        folder = fine_tune(
            base,
            start if grow.start == "champion" else None,
            [rated(item) for item in items],
            steps=grow.steps,
            rate=grow.rate,
            batch=grow.batch,
            seed=seed_of(run),
            folder=Path(scratch) / "adapter",
            rank=min(RANK, highest) if grow.rank is None else grow.rank,
            utility=UTILITIES[run.spec.utility],
            # What the champion says it was made for: the path of a base differs from worker to worker, bytes must not.
            base_model=read_expert(start).base_model,
            on_step=wanted,
        )
        artifact, facts = registry.keep(folder)
    return {
        "digest": artifact.digest,
        "size": artifact.size,
        "rank": facts.rank,
        "items": len(items),
        "taught": len(lesson),
        "item_generations": grow.item_generations,
        "environment": here().model_dump(),
    }
