"""Beyond the hull: the hull alone, fine-tuning alone, and the hull with a trained expert in it, at equal budget.

python -m bench.grow                 two scenes x 5 seeds
python -m bench.grow --quick         one seed, tiny: does it run
python -m bench.grow --work DIR      keep finished cells there, and go on from them
python -m bench.grow --json FILE     and write everything down

The users ask for the starter pack's blend, and rate the answers of its first expert: right ones up, wrong ones corrected. In
the scene ``inside`` the pool has an expert for each skill of the blend; in ``outside`` nobody has two of its four skills. Every
arm has the same feedback and the same budget in item-generations, of which a step over an item takes three:

hull             the search of a run, all of the budget
grown            a run that grows: training on a share of the items, the rest of the budget searches the hull with the
                 trained expert in it, on the other items
fine_tuning      the champion trained on all items, by as many steps as ``grown`` takes; most of the budget is left over
fine_tuning_all  the same with steps for all of the budget

Right answers are greedy answers that are exactly right, on test items that nothing else sees, of what would be served (bfloat16,
the service's rank). Intervals are over seeds and items; differences are paired.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from bench.machine import headline, machine
from registry.grow import Grow, taught
from starter.effect import SERVED_RANK, feedback, right
from starter.pack import load_pack
from starter.skills import check_disjoint, items
from swarm_worker import search
from swarm_worker.fine_tuning import fine_tune
from swarm_worker.materialise import materialise
from swarm_worker.scorer import Scorer, climb
from swarm_worker.scoring.engine import AdapterFolder
from swarm_worker.scoring.transformers import TransformersEngine
from swarm_worker.statistics import mean_interval, two_level_bootstrap
from swarm_worker.utilities import UTILITIES, Item

SCENES: dict[str, tuple[str, ...]] = {"inside": (), "outside": ("shift", "vowels")}
"""The experts that are left out of the pool."""
ARMS = ("champion", "hull", "fine_tuning", "fine_tuning_all", "grown")
PAIRS = (("grown", "hull"), ("grown", "fine_tuning"), ("grown", "fine_tuning_all"), ("hull", "champion"))
POOLLESS = ("champion", "fine_tuning", "fine_tuning_all")
"""The arms that know nothing of the pool: the same in every scene of a seed, and run once."""
ENDLESS = 10**6

Cells = list[dict[str, Any]]


@dataclass(frozen=True)
class Size:
    """Feedback items, test items, evaluations of the feedback that an arm may spend, and the training."""

    feedback: int
    test: int
    evaluations: int
    grow: Grow

    @property
    def budget(self) -> int:
        """In item-generations."""
        return self.feedback * self.evaluations


def main(
    quick: Annotated[bool, typer.Option(help="One seed, tiny.")] = False,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from 0.")] = 5,
    start: Annotated[str, typer.Option(help="What is trained on: champion or base.")] = "champion",
    steps: Annotated[int, typer.Option(min=1, help="Of the training.")] = 60,
    share: Annotated[float, typer.Option(help="Of the items that are trained on.")] = 0.5,
    work: Annotated[Path | None, typer.Option(help="Where finished cells are kept and found again.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Run all cells on one thread, a line each, then the table."""
    torch.set_num_threads(1)
    grow = Grow(when="always", start=start, share=share, steps=3 if quick else steps)  # type: ignore[arg-type]
    size = Size(24, 40, 20, grow) if quick else Size(120, 400, 100, grow)
    numbers = range(1 if quick else seeds)
    where = machine(("torch", "transformers", "peft", "cmaes"), seeds=numbers)
    print(f"{headline(where)}; one thread\n{asdict(size) | {'grow': grow.model_dump()}}", flush=True)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as scratch:
        kept = work or Path(scratch)
        kept.mkdir(parents=True, exist_ok=True)
        cells: Cells = []
        for seed in numbers:
            known: dict[str, Any] = {}
            for scene in SCENES:
                cells.append(kept_cell(kept, scene, seed, size, known))
                known = {name: cells[-1]["arms"][name] for name in POOLLESS}
    rows = [row for scene in SCENES for row in table(scene, [cell for cell in cells if cell["scene"] == scene])]
    seconds = round(time.perf_counter() - began)
    print("\n".join(as_text(rows)))
    print(f"\n{seconds} s in all")
    figures = {"machine": where, "size": asdict(size) | {"grow": grow.model_dump()}, "seconds": seconds}
    if json_file:
        json_file.write_text(json.dumps(figures | {"rows": rows, "cells": cells}, indent=2) + "\n")


def kept_cell(kept: Path, scene: str, seed: int, size: Size, known: dict[str, Any]) -> dict[str, Any]:
    """A cell of this size from ``kept``, or run and kept there; a line of it. ``known``: arms that need not be run again."""
    path = kept / f"{scene}-{seed}-{hashlib.sha256(repr(size).encode()).hexdigest()[:8]}.json"
    if not path.exists():
        path.write_text(json.dumps(run_cell(scene, seed, size, known)))
    cell: dict[str, Any] = json.loads(path.read_text())
    told = ", ".join(f"{name} {statistics.fmean(arm['test']):.1%}" for name, arm in cell["arms"].items())
    print(f"{scene} {seed}: {told}; weight of the trained expert {cell['arms']['grown']['weight']:+.2f}", flush=True)
    return cell


def run_cell(scene: str, seed: int, size: Size, known: dict[str, Any]) -> dict[str, Any]:
    """Every arm's right answers on the same test items, what it spent and how long it took; ``known`` arms as they are."""
    pack = load_pack()
    folders = [folder for name, folder in pack.experts.items() if name not in SCENES[scene]]
    engine = TransformersEngine.load(pack.base, folders)
    champion = AdapterFolder(pack.experts[pack.champion])
    asked, test = items("blend", "traffic", size.feedback, seed), items("blend", "test", size.test, seed)
    check_disjoint(asked, test)
    with tempfile.TemporaryDirectory(prefix="shoal-grow-") as scratch:
        cell = Cell(engine, pack.base, folders, champion, feedback(engine, champion, asked), size, seed, Path(scratch))
        found = dict(known)
        for name in (name for name in ARMS if name not in known):
            began = time.perf_counter()
            result = cell.arms[name]()
            seconds = time.perf_counter() - began
            served = AdapterFolder(result.pop("folder"))
            found[name] = result | {"seconds": round(seconds, 1), "test": right(engine, served, test)}
    return {"scene": scene, "seed": seed, "arms": found}


class Cell:
    """The arms of one scene and one seed. Each answers with its adapter's folder and what it spent."""

    def __init__(
        self,
        engine: TransformersEngine,
        base: Path,
        folders: list[Path],
        champion: AdapterFolder,
        rated: list[Item],
        size: Size,
        seed: int,
        scratch: Path,
    ) -> None:
        self.engine, self.base, self.folders, self.champion, self.rated = engine, base, folders, champion, rated
        self.size, self.seed, self.scratch = size, seed, scratch
        self.arms: dict[str, Callable[[], dict[str, Any]]] = {
            "champion": lambda: {"folder": champion.folder, "item_generations": 0},
            "hull": lambda: self._search("hull", folders, rated, 0),
            "fine_tuning": lambda: self._fine_tuned("fine_tuning", size.grow.steps),
            "fine_tuning_all": lambda: self._fine_tuned("fine_tuning_all", self._affordable_steps()),
            "grown": self._grown,
        }

    def _grown(self) -> dict[str, Any]:
        """As ``swarm_worker/trainer.py`` and ``slices.py`` do it: taught items score nothing."""
        grow = self.size.grow
        lesson = taught(self.rated, grow.share, self.seed)
        folder = self._train("trained", [item for item in self.rated if item.digest in lesson], grow.steps)
        others = [item for item in self.rated if item.digest not in lesson]
        found = self._search("grown", [*self.folders, folder], others, grow.item_generations)
        return found | {"weight": found["coefficients"][-1]}

    def _fine_tuned(self, name: str, steps: int) -> dict[str, Any]:
        spent = self.size.grow.model_copy(update={"steps": steps}).item_generations
        return {"folder": self._train(name, self.rated, steps), "item_generations": spent, "steps": steps}

    def _affordable_steps(self) -> int:
        return self.size.budget // self.size.grow.model_copy(update={"steps": 1}).item_generations

    def _train(self, name: str, lesson: Sequence[Item], steps: int) -> Path:
        grow = self.size.grow
        return fine_tune(
            self.base,
            self.champion.folder if grow.start == "champion" else None,
            lesson,
            steps=steps,
            rate=grow.rate,
            batch=grow.batch,
            seed=self.seed,
            folder=self.scratch / name,
            utility=UTILITIES["preference"],
        )

    def _search(self, name: str, folders: Sequence[Path], scored: Sequence[Item], spent: int) -> dict[str, Any]:
        self.engine.set_experts(list(folders))
        scorer = Scorer(self.engine, UTILITIES["preference"], scored, reference=self.champion)
        scorer.item_generations = spent
        optimizer = search.make("cma_es", n_experts=len(folders), seed=self.seed, max_generations=ENDLESS)
        best = climb(optimizer, scorer, item_generations=self.size.budget)
        folder = self.scratch / name
        materialise(folders, best.coefficients, folder, space="delta", max_rank=SERVED_RANK)
        return {"folder": folder, "item_generations": scorer.item_generations, "coefficients": list(best.coefficients)}


def table(scene: str, cells: Cells) -> list[dict[str, Any]]:
    """A row an arm, then a row a difference."""
    rows: list[dict[str, Any]] = []
    for name in ARMS:
        mine = [cell["arms"][name] for cell in cells]
        own = mean_interval([arm["test"] for arm in mine], seed=0)
        means = {key: statistics.fmean(arm[key] for arm in mine) for key in ("item_generations", "seconds")}
        rows.append({"scene": scene, "arm": name, "right": own.mean, "low": own.low, "high": own.high} | means)
    for one, other in PAIRS:
        gain = two_level_bootstrap([(cell["arms"][other]["test"], cell["arms"][one]["test"]) for cell in cells], seed=0)
        rows.append({"scene": scene, "arm": f"{one} - {other}", "right": gain.mean, "low": gain.low, "high": gain.high})
    return rows


def as_text(rows: list[dict[str, Any]]) -> list[str]:
    lines = [f"\n{'scene':>8}{'arm':>26}{'right':>9}{'95% interval':>20}{'items':>9}{'seconds':>9}"]
    for row in rows:
        sign = "+" if " - " in row["arm"] else ""
        interval = f"{100 * row['low']:{sign}.1f} to {100 * row['high']:{sign}.1f}"
        spent = f"{row['item_generations']:>9,.0f}{row['seconds']:>9.1f}" if "seconds" in row else ""
        lines.append(f"{row['scene']:>8}{row['arm']:>26}{100 * row['right']:>{sign}9.1f}{interval:>20}{spent}")
    return lines


if __name__ == "__main__":
    typer.run(main)
