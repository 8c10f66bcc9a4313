"""Simulated months: thirteen weeks of users, with the loop on, off, and with parts of it left out.

python -m bench.months                 five seeds
python -m bench.months --quick         two weeks of one seed, within a minute
python -m bench.months --json FILE     and write everything down
python -m bench.months --plot FILE     and draw the picture (PNG)
python -m bench.months --work DIR      keep every way of a seed that is finished there, and read it from there the next time

The world is ``bench/month_world.py``, a way through it ``bench/month_arm.py``. The users' true utility is the share of answers
they were given that are exactly right.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.machine import headline, machine
from bench.month_arm import LOOP, NAIVE, OFF, Arm, Size, Way
from bench.month_searches import Searches
from bench.month_world import MISTAKE, WEEKS, story
from bench.report import conclude
from swarm_worker.gate import Interval

QUICK = Size(weeks=2, per_week=260, generations=1, new_feedback=150)
WAYS = (OFF, LOOP, *NAIVE)
TOLERANCE = 0.02
"""How much worse than without the loop a week may be: what a guard of the loop's policy would tolerate."""


def main(
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from 0.")] = 5,
    weeks: Annotated[int, typer.Option(min=2, max=WEEKS, help="How many weeks of the story.")] = WEEKS,
    processes: Annotated[int, typer.Option(min=1, help="Ways at a time.")] = 2,
    quick: Annotated[bool, typer.Option(help="The first weeks of one seed, few requests.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    work: Annotated[Path | None, typer.Option(help="Keep what is finished in this folder.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the picture into this PNG.")] = None,
) -> None:
    """Play the story once a seed and way, print a row each, then the bars."""
    numbers = range(1 if quick else seeds)
    where = machine(seeds=numbers)
    print(headline(where), flush=True)
    size = QUICK if quick else Size(weeks=weeks)
    tasks = [(seed, way, size, work) for way in WAYS for seed in numbers]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        told = dict(zip([(seed, way.name) for seed, way, *_ in tasks], pool.map(play, tasks), strict=True))
    played = [{"seed": seed, "ways": {way.name: told[seed, way.name] for way in WAYS}} for seed in numbers]
    for one in played:
        _print(one)
    if plot:
        from bench.month_plot import draw

        draw(played, plot)
    figures = bars(played)
    met = figures.pop("met")
    conclude(where, figures, met=None if quick else met, json_file=json_file, rows={"stories": played})


def play(task: tuple[int, Way, Size, Path | None]) -> dict[str, Any]:
    """One way through the story of one seed; from the folder of finished ones, where it is in there."""
    seed, way, size, work = task
    kept = work and work / f"{size.weeks}-{size.per_week}-{size.generations}-{seed}-{way.name}.json"
    if kept and kept.exists():
        found: dict[str, Any] = json.loads(kept.read_text())
        return found
    told = _played(seed, way, size, Searches(work and work / "searches"))
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(told))
    return told


def _played(seed: int, way: Way, size: Size, searches: Searches) -> dict[str, Any]:
    import torch

    from bench.month_answers import Answers
    from starter.pack import load_pack
    from swarm_worker.scoring.transformers import TransformersEngine

    torch.set_num_threads(1)
    pack = load_pack()
    with tempfile.TemporaryDirectory(prefix="shoal-months-") as scratch:
        answers = Answers(TransformersEngine.load(pack.base))
        bad = spoiled(pack.experts["shift"], Path(scratch) / "bad")
        arm = Arm(way, pack, answers, searches, bad, seed, size, Path(scratch))
        weeks = arm.play(story(seed, size.per_week, size.weeks))
    told = {"weeks": [asdict(week) | {"utility": week.utility} for week in weeks], "runs": arm.runs}
    print(f"seed {seed}, {way.name}: {_weeks(told)}", flush=True)
    return told


def spoiled(expert: Path, folder: Path) -> Path:
    """A bad expert: a good one trained for the opposite, its update turned round and doubled."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(expert, folder)
    file = folder / "adapter_model.safetensors"
    tensors = {name: -2 * tensor if "lora_B" in name else tensor for name, tensor in load_file(file).items()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    return folder


def bars(played: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The loop against no loop and against every naive variant, and its worst week."""
    off, loop = _weekly(played, OFF), _weekly(played, LOOP)
    gain = _interval(loop, off)
    naive = {way.name: asdict(_interval(loop, _weekly(played, way))) for way in NAIVE}
    worst = min(
        after - before for one, other in zip(loop, off, strict=True) for after, before in zip(one, other, strict=True)
    )
    return {
        "mean": {way.name: _mean(_weekly(played, way)) for way in (OFF, LOOP, *NAIVE)},
        "loop_minus_off": gain.mean,
        "loop_minus_off_ci_low": gain.low,
        "worst_week": worst,
        "tolerance": TOLERANCE,
        "naive": {name: {"loop_minus": found["mean"], "ci_low": found["low"]} for name, found in naive.items()},
        "harm": {way.name: _harm(_weekly(played, way), off) for way in (LOOP, *NAIVE)},
        "mistake": {way.name: _mistake(_weekly(played, way)) for way in (LOOP, *NAIVE)},
        "moves": {way.name: _moves(played, way) for way in (LOOP, *NAIVE)},
        "met": gain.low > 0 and worst >= -TOLERANCE and all(found["mean"] > 0 for found in naive.values()),
    }


def _weekly(played: Sequence[dict[str, Any]], way: Way) -> list[list[float]]:
    """By seed, the utility of each week."""
    return [[week["utility"] for week in told["ways"][way.name]["weeks"]] for told in played]


def _interval(after: list[list[float]], before: list[list[float]]) -> Interval:
    """Over seeds and weeks: ``two_level_bootstrap``. Weeks of one story depend on each other; seeds do not."""
    from swarm_worker.statistics import two_level_bootstrap

    return two_level_bootstrap(list(zip(before, after, strict=True)), 0)


def _mean(weekly: list[list[float]]) -> float:
    return sum(sum(weeks) / len(weeks) for weeks in weekly) / len(weekly)


def _harm(weekly: list[list[float]], off: list[list[float]]) -> float:
    """Points of utility below no loop, summed over the weeks in which it was below; the mean over seeds."""
    lost = (max(0.0, b - a) for one, other in zip(weekly, off, strict=True) for a, b in zip(one, other, strict=True))
    return sum(lost) / len(weekly)


def _mistake(weekly: list[list[float]]) -> float | None:
    """What the bad release took from its week, against the weeks before and after; the mean over seeds. None: it never came."""
    if len(weekly[0]) <= MISTAKE + 1:
        return None
    return _mean([[weeks[MISTAKE] - (weeks[MISTAKE - 1] + weeks[MISTAKE + 1]) / 2] for weeks in weekly])


def _moves(played: Sequence[dict[str, Any]], way: Way) -> dict[str, int]:
    moves = [move for told in played for week in told["ways"][way.name]["weeks"] for move in week["moves"]]
    words = ("on trial", "promoted", "kept back", "undecided", "refused by the gate")
    return {"runs": sum(told["ways"][way.name]["runs"] for told in played)} | {
        word: sum(move.startswith(word) for move in moves) for word in words
    }


def _print(told: dict[str, Any]) -> None:
    print(f"seed {told['seed']}")
    for name, way in told["ways"].items():
        print(f"  {name:<12}{_weeks(way)}", flush=True)


def _weeks(way: dict[str, Any]) -> str:
    return " ".join(f"{100 * week['utility']:5.1f}" for week in way["weeks"])


if __name__ == "__main__":
    typer.run(main)
