"""The bars of the search: the shoal preset against the paper's, every baseline and every control, at equal budget.

python -m bench.search                 3 blends x 5 seeds
python -m bench.search --quick         one blend, one seed, tiny: does it run
python -m bench.search --full          2.5 times the items and evaluations
python -m bench.search --work DIR      keep finished cells there, and go on from them
python -m bench.search --json FILE     and write everything down

A row a method: the share of test items that its finalist, cut to the rank that is served, answers exactly right; the
paired two-level interval (over cells and items) of what it has more or less than shoal; what it spent.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.machine import headline, machine
from bench.search_cell import BLENDS, EXPERTS, PACK, Size, draw, right, run_cell
from bench.search_from_disk import run_from_disk
from swarm_worker.baselines import BASELINES, Single
from swarm_worker.presets import PRESETS
from swarm_worker.scoring.engine import Candidate
from swarm_worker.scoring.transformers import TransformersEngine
from swarm_worker.statistics import mean_interval, two_level_bootstrap

QUICK = Size(search=20, test=40, evaluations=40, training=4)
DEFAULT = Size(search=80, test=400, evaluations=160, training=100)
FULL = Size(search=200, test=1000, evaluations=400, training=200)
METHODS = ("shoal", "paper", "paper_delta", "cma_es", "model_swarms", *BASELINES)

Cells = list[dict[str, Any]]


def main(
    quick: Annotated[bool, typer.Option(help="One blend, one seed, tiny.")] = False,
    full: Annotated[bool, typer.Option(help="Twice the items and evaluations.")] = False,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from 0.")] = 5,
    processes: Annotated[int, typer.Option(min=1, help="Cells at a time, one thread each.")] = 2,
    methods: Annotated[str, typer.Option(help="Which, by commas; shoal and paper always.")] = ",".join(METHODS),
    work: Annotated[Path | None, typer.Option(help="Where finished cells are kept and found again.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Run all cells, print the table, then the bars; exit 1 where one is not met."""
    size = QUICK if quick else FULL if full else DEFAULT
    blends, numbers = list(BLENDS)[: 1 if quick else None], range(1 if quick else seeds)
    chosen = tuple(dict.fromkeys(["shoal", "paper", "best_expert", *methods.split(",")]))
    where = machine(("torch", "transformers", "peft", "cmaes", "nevergrad", "scikit-learn", "scipy"), seeds=numbers)
    print(f"{headline(where)}\n{len(blends)} blends, {size}\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as scratch:
        kept = work or Path(scratch)
        kept.mkdir(parents=True, exist_ok=True)
        began = time.perf_counter()
        cells = run_cells(blends, numbers, size, chosen, kept, processes)
        wall = wall_speedup(blends[0], 0, size)
        took = time.perf_counter() - began
    rows = table(cells, chosen)
    print("\n".join(as_text(rows)))
    print(f"\nshoal's own selected point, mean over cells: {way_of(cells)}")
    verdict = bars(cells, rows, wall)
    print("\n" + "\n".join(f"{name}: {value}" for name, value in verdict.items()))
    figures = {"machine": where, "size": asdict(size), "seconds": round(took), "rows": rows} | verdict
    figures |= {"presets": {name: str(preset) for name, preset in PRESETS.items()}, "wall": wall, "cells": cells}
    if json_file:
        json_file.write_text(json.dumps(figures, indent=2) + "\n")
    sys.exit(0 if verdict["met"] else 1)


def run_cells(
    blends: Iterable[str], seeds: Iterable[int], size: Size, methods: tuple[str, ...], kept: Path, processes: int
) -> Cells:
    """All cells, what is finished of them from ``kept``; a line each."""
    made_with = hashlib.sha256(repr((size, PRESETS)).encode()).hexdigest()[:8]
    wanted = {(blend, seed): kept / f"{blend}-{seed}-{made_with}.json" for seed in seeds for blend in blends}
    known = {key: json.loads(path.read_text()) if path.exists() else None for key, path in wanted.items()}
    missing = {
        key: tuple(name for name in methods if cell is None or name not in cell["methods"])
        for key, cell in known.items()
    }
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(run_cell, *key, size, names): key for key, names in missing.items() if names}
        for done in as_completed(running):
            key, cell = running[done], done.result()
            print(_line(cell), flush=True)
            if before := known[key]:
                cell["methods"] = before["methods"] | cell["methods"]
            known[key] = cell
            wanted[key].write_text(json.dumps(cell))
    return [cell for cell in known.values() if cell is not None]


def wall_speedup(blend: str, seed: int, size: Size) -> dict[str, Any]:
    """Shoal's seconds until its own selected position has the test utility of the paper's final one, and the paper's
    recipe's, run the reference's way: one after the other, on the same items, in this process."""
    items, test = (draw(BLENDS[blend], split, n, seed) for split, n in (("traffic", size.search), ("test", size.test)))
    began = time.perf_counter()
    cell = run_cell(blend, seed, size, ("shoal",))
    found = cell["methods"]["shoal"]
    best, seconds = run_from_disk(items, seed, size.evaluations)
    engine = TransformersEngine.load(PACK / "base", EXPERTS)
    target = statistics.fmean(right(engine, Single(Candidate(best.coefficients, "factors")), test))
    ours = next((step["seconds"] for step in found["way"] if step["test"] >= target), None)
    return {
        "blend": blend,
        "seed": seed,
        "paper_test": target,
        "paper_seconds": round(seconds, 1),
        "shoal_seconds": ours,
        "wall_speedup_to_paper": None if ours is None else round(seconds / ours, 1),
        "took": round(time.perf_counter() - began),
    }


def table(cells: Cells, methods: tuple[str, ...]) -> list[dict[str, Any]]:
    """A row a method, best first; who refused to run is a row without figures."""
    rows: list[dict[str, Any]] = []
    for name in methods:
        mine = [cell["methods"][name] for cell in cells]
        if refused := [result["refused"] for result in mine if "refused" in result]:
            rows.append({"method": name, "refused": refused[0]})
            continue
        against = [(cell["methods"]["shoal"]["test"], cell["methods"][name]["test"]) for cell in cells]
        own = mean_interval([result["test"] for result in mine], seed=0)
        gain = two_level_bootstrap(against, seed=0)
        rows.append(
            {
                "method": name,
                "test": own.mean,
                "ci_low": own.low,
                "ci_high": own.high,
                "minus_shoal": gain.mean,
                "minus_shoal_low": gain.low,
                "minus_shoal_high": gain.high,
                "item_generations": round(statistics.fmean(result["item_generations"] for result in mine)),
                "seconds": round(statistics.fmean(result["seconds"] for result in mine), 1),
            }
        )
    return sorted(rows, key=lambda row: -row.get("test", -1))


def bars(cells: Cells, rows: list[dict[str, Any]], wall: dict[str, Any]) -> dict[str, Any]:
    """The figures that the search is held to, and one verdict."""
    by = {row["method"]: row for row in rows if "refused" not in row}
    paper, control = by["paper"], by.get("random_in_hull")
    better = [name for name, row in by.items() if name != "shoal" and row["minus_shoal_low"] > 0]
    figures: dict[str, Any] = {
        "shoal_minus_paper_ci_low": -paper["minus_shoal_high"],
        "shoal_minus_random": -control["minus_shoal"] if control else None,
        "better_than_shoal": better,
        **budget_ratio(cells),
        **(budget_ratio(cells, "paper_delta") if "paper_delta" in by else {}),
        "wall_speedup_to_paper": wall["wall_speedup_to_paper"],
    }
    ratio, speedup, over_random = (
        figures[name] for name in ("budget_ratio_to_paper", "wall_speedup_to_paper", "shoal_minus_random")
    )
    figures["met"] = (
        figures["shoal_minus_paper_ci_low"] > 0
        and not better
        and over_random is not None
        and over_random > 0
        and ratio is not None
        and ratio <= 1 / 3
        and speedup is not None
        and speedup >= 10
    )
    return figures


def budget_ratio(cells: Cells, rival: str = "paper") -> dict[str, Any]:
    """The share of paper's item-generations after which shoal's own selected point has, on the mean, paper's final test
    utility: over the cells where paper beats its best expert by more than a standard error of the paired difference."""
    won = [cell for cell in cells if _beats_its_best_expert(cell, rival)]
    names = f"budget_ratio_to_{rival}", f"cells_{rival}_beats_its_best_expert"
    if not won:
        return dict(zip(names, (None, 0), strict=True))
    target = statistics.fmean(statistics.fmean(cell["methods"][rival]["test"]) for cell in won)
    budget = statistics.fmean(cell["methods"][rival]["item_generations"] for cell in won)
    ways = [cell["methods"]["shoal"]["way"] for cell in won]
    spent = sorted({step["item_generations"] for way in ways for step in way})
    first = next((b for b in spent if statistics.fmean(_selected(way, b) for way in ways) >= target), None)
    return dict(zip(names, (None if first is None else round(first / budget, 3), len(won)), strict=True))


def way_of(cells: Cells) -> str:
    """The mean test utility of what shoal had selected, at every point of its budget that all cells came by."""
    ways = [cell["methods"]["shoal"]["way"] for cell in cells]
    first = max(way[0]["item_generations"] for way in ways)
    spent = sorted({step["item_generations"] for way in ways for step in way if step["item_generations"] >= first})
    return ", ".join(f"{statistics.fmean(_selected(way, b) for way in ways):.1%} after {b:,}" for b in spent)


def _selected(way: list[dict[str, Any]], budget: int) -> float:
    """The test utility of what was selected at this point of the budget; 0 before anything was."""
    utilities = [step["test"] for step in way if step["item_generations"] <= budget]
    return float(utilities[-1]) if utilities else 0.0


def _beats_its_best_expert(cell: dict[str, Any], rival: str) -> bool:
    pairs = zip(cell["methods"]["best_expert"]["test"], cell["methods"][rival]["test"], strict=True)
    gains = [after - before for before, after in pairs]
    return statistics.fmean(gains) > statistics.stdev(gains) / len(gains) ** 0.5


def _line(cell: dict[str, Any]) -> str:
    parts = [
        f"{name} {statistics.fmean(result['test']):.1%}" for name, result in cell["methods"].items() if "test" in result
    ]
    return f"{cell['blend']} {cell['seed']}: " + ", ".join(parts)


def as_text(rows: list[dict[str, Any]]) -> list[str]:
    lines = [f"\n{'method':>18}{'test':>8}{'interval':>18}{'minus shoal':>13}{'interval':>20}{'items':>9}{'s':>8}"]
    for row in rows:
        if "refused" in row:
            lines.append(f"{row['method']:>18}  {row['refused']}")
            continue
        own = f"{row['ci_low']:.1%} to {row['ci_high']:.1%}"
        gain = f"{100 * row['minus_shoal_low']:+.1f} to {100 * row['minus_shoal_high']:+.1f}"
        lines.append(
            f"{row['method']:>18}{row['test']:>8.1%}{own:>18}{100 * row['minus_shoal']:>+13.1f}{gain:>20}"
            f"{row['item_generations']:>9,}{row['seconds']:>8.1f}"
        )
    return lines


if __name__ == "__main__":
    typer.run(main)
