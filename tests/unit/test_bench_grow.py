"""The bench of growing: equal budgets, and differences that are paired."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench import grow
from registry.grow import Grow
from swarm_worker.scoring.engine import AdapterFolder
from swarm_worker.utilities import Item
from tests.unit.tiny_setting import TRAINING, chat, load_engine, make_pack

MORE = tuple(Item(messages=chat(f"more {word}"), good=word) for word in ("gh", "ij", "kl"))


def arm(*right: float, spent: int = 10) -> dict[str, Any]:
    return {"test": list(right), "item_generations": spent, "seconds": 1.0}


def test_differences_are_paired_by_item_and_seed() -> None:
    """Where one arm is right wherever the other is and on half of the rest, no draw of items turns it round."""
    arms = {name: arm(0, 1, 0, 1) for name in grow.ARMS} | {"grown": arm(1, 1, 0, 1)}
    rows = {row["arm"]: row for row in grow.table("inside", [{"scene": "inside", "arms": arms}] * 3)}
    assert rows["grown"]["right"] == pytest.approx(0.75)
    assert rows["grown - hull"]["right"] == pytest.approx(0.25)
    assert rows["grown - hull"]["low"] >= 0
    assert rows["hull - champion"]["right"] == rows["hull - champion"]["high"] == 0
    assert "+25.0" in "\n".join(grow.as_text(list(rows.values())))


def test_no_arm_spends_more_than_the_budget(tmp_path: Path) -> None:
    """Training and search together, on a tiny base; what is trained on is not scored."""
    base, folders = make_pack(tmp_path / "pack")
    rated = [*TRAINING, *MORE]
    size = grow.Size(len(rated), 4, 30, Grow(when="always", steps=2, batch=4))
    engine = load_engine(base)
    (tmp_path / "scratch").mkdir()
    cell = grow.Cell(engine, base, list(folders), AdapterFolder(folders[0]), rated, size, 1, tmp_path / "scratch")
    spent = {name: cell.arms[name]()["item_generations"] for name in grow.ARMS}
    assert all(cost <= size.budget for cost in spent.values())
    assert spent["fine_tuning"] == 2 * 4 * 3
    assert spent["fine_tuning_all"] > size.budget - 4 * 3
    assert (spent["grown"] - 2 * 4 * 3) % (len(rated) // 2) == 0
