"""A scene without a model: three random experts in folders, made-up items, the toy engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from registry.artifacts import digest_of_folder
from swarm_worker import utilities
from swarm_worker.offline.config import RunConfig
from swarm_worker.offline.items import Drawn
from swarm_worker.offline.scene import Scene
from swarm_worker.utilities import Item
from tests.unit.tiny_experts import write_expert
from tests.unit.toy_engine import ToyEngine

NAMES = ("one", "two", "three")


def make_scene(root: Path, engine: ToyEngine | None = None, **changes: Any) -> Scene:
    """``changes``: to the config."""
    folders = {name: root / "experts" / name for name in NAMES}
    for seed, folder in enumerate(folders.values()):
        if not folder.exists():
            write_expert(folder, seed, {"layers.0.a": 2, "layers.1.a": 1})
    value = {
        "base": "toy",
        "experts": folders,
        "data": {"file": "items.jsonl"},
        "utility": "exact_match",
        "optimizer": "cma_es",
        "budget": {"evaluations": 44},
        "hull": {"max_rank": 2},
    }
    config = RunConfig.model_validate(value | changes)
    score = config.score.name if config.score else "likelihood" if config.preset == "shoal" else "exact_match"
    return Scene(
        config=config,
        engine=engine or ToyEngine(noise=0.2),
        base=config.base,
        names=NAMES,
        folders=tuple(folders.values()),
        digests=tuple(map(digest_of_folder, folders.values())),
        utility=utilities.make("exact_match"),
        score=utilities.make(score),
        items=Drawn(tuple(items("search", 30)), tuple(items("confirm", 40)), tuple(items("test", 50))),
    )


def items(name: str, n: int) -> Iterator[Item]:
    return (Item(prompt=f"{name} {number}", good="yes") for number in range(n))
