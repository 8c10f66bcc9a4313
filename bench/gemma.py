"""One real model: Gemma 3 270M, experts from other sources than the target, and all that one can make of them.

python -m bench.gemma --work DIR            40 minutes on two cores, most of it training: one target, four experts
python -m bench.gemma --work DIR --full     two hours and a half: two targets, five experts each, two seeds
python -m bench.gemma --work DIR --quick    everything once, in a minute; its figures mean nothing
python -m bench.gemma ... --json FILE       and write everything down

DIR holds the model, its experts and a journal; it lies outside the repository. Stopped and called again, it goes on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from bench.gemma_items import SOURCES, TARGETS, Parts, Target, items_of, pair_of, parts_of
from bench.gemma_journal import Journal
from bench.gemma_pool import make_base, make_expert
from bench.machine import headline, machine
from swarm_worker.baselines import CONTROLS, RIVALS, Found, Setting, Single
from swarm_worker.gate import decide, paired_bootstrap
from swarm_worker.presets import PRESETS, Preset
from swarm_worker.scorer import Scorer, climb
from swarm_worker.scoring.engine import BASE, Candidate
from swarm_worker.scoring.transformers import TransformersEngine
from swarm_worker.search import make
from swarm_worker.utilities import Item, MultipleChoice
from swarm_worker.utilities.utility import Scores, scores_of

WORK = Path.home() / ".cache" / "shoal-gemma"
DATA = Path("../shared/data/model_swarms")
CMA_ES = Preset("cma_es", "delta", smooth=True)  # a rival: what `shoal` was before
FINALISTS = ("paper", "shoal", "cma_es", "random_in_hull")
LIBRARIES = ("torch", "transformers", "peft", "cmaes")


@dataclass(frozen=True, slots=True)
class Size:
    """How much is done. ``runs``: target and seed. ``parts``: search, confirm and test items of a target. ``particles``,
    ``generations``: of the paper's search; what it spends is everybody's budget."""

    runs: tuple[tuple[str, int], ...]
    sources: tuple[str, ...]
    steps: int
    parts: dict[str, tuple[int, int, int]]
    particles: int
    generations: int


QUICK = Size((("mmlu", 0),), ("medmcqa", "gsm8k"), 2, {"mmlu": (4, 4, 8)}, 3, 1)
USUAL = Size((("mmlu", 0),), SOURCES[:5], 120, {"mmlu": (30, 30, 150)}, 6, 5)
FULL = Size(
    (("hellaswag", 0), ("mmlu", 0), ("mmlu", 1), ("hellaswag", 1)),
    SOURCES,
    120,
    {"hellaswag": (50, 50, 145), "mmlu": (50, 50, 200)},
    6,
    5,
)


@dataclass(frozen=True, slots=True)
class Task:
    """A target with its pool of experts: all that a contender is given."""

    target: Target
    parts: Parts
    journal: Journal
    folders: tuple[Path, ...]
    names: tuple[str, ...]
    work: Path
    base: Path

    def utility(self, smooth: bool) -> MultipleChoice:
        """Accuracy, or the right option's probability."""
        normalise, beta = self.target.normalise, self.target.beta
        return MultipleChoice(normalise=normalise, smooth=smooth, beta=beta)  # type: ignore[arg-type]

    def scores(self, found: Found, items: tuple[Item, ...], smooth: bool) -> Scores:
        utility = self.utility(smooth)
        return scores_of(utility, items, found.contender.told(self.journal, utility.asks(items)), None)


def main(
    work: Annotated[Path, typer.Option(help="Folder for the model, the experts and the journal.")] = WORK,
    data: Annotated[Path, typer.Option(help="Evaluation sets, Model Swarms JSON.")] = DATA,
    quick: Annotated[bool, typer.Option(help="A minute; figures without meaning.")] = False,
    full: Annotated[bool, typer.Option(help="The recorded study.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="Threads that score.")] = 2,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Make what is missing, run every contender, print a table a target and seed."""
    size = QUICK if quick else FULL if full else USUAL
    begin = time.perf_counter()
    base = make_base(work)
    where = machine(LIBRARIES, sorted({seed for _, seed in size.runs}))
    print(headline(where), flush=True)
    figures: dict[str, Any] = {"machine": where, "threads": threads, "size": asdict(size), "experts": {}, "runs": []}

    def save() -> None:
        figures["wall_s"] = round(time.perf_counter() - begin, 1)
        if json_file:
            json_file.write_text(json.dumps(figures, indent=2) + "\n")

    for name, seed in size.runs:
        for source in _pool(size, name):
            figures["experts"][source] = _expert(base, _expert_folder(work, size, source), data, source, size.steps)
            save()
        torch.set_num_threads(threads)
        task = _task(work, data, base, size, TARGETS[name])
        run: dict[str, Any] = {"target": asdict(task.target), "seed": seed, "experts": task.names}
        figures["runs"].append(run)
        for _ in _run(task, size, seed, run):
            save()
        print(table(run), flush=True)


def _expert(base: Path, folder: Path, data: Path, source: str, steps: int) -> dict[str, Any]:
    pairs = [pair_of(item) for item in items_of(data, source)]
    return make_expert(
        base, folder, pairs, steps=steps, seed=0, say=lambda line: print(f"expert {source}, {line}", flush=True)
    )


def _pool(size: Size, target: str) -> tuple[str, ...]:
    """The sources whose experts a target's hull is made of."""
    return tuple(source for source in size.sources if source != target)


def _expert_folder(work: Path, size: Size, source: str) -> Path:
    return work / f"experts-{size.steps}" / source


def _task(work: Path, data: Path, base: Path, size: Size, target: Target) -> Task:
    names = _pool(size, target.name)
    folders = tuple(_expert_folder(work, size, name) for name in names)

    def load() -> TransformersEngine:
        # In bfloat16, as the model was published: three times as fast as float32 on a processor that has it.
        return TransformersEngine.load(base, folders, dtype=torch.bfloat16)

    journal = Journal(load, work / f"journal-{size.steps}.jsonl", ",".join(names))
    return Task(target, parts_of(data, target, names, size.parts[target.name]), journal, folders, names, work, base)


def _run(task: Task, size: Size, seed: int, run: dict[str, Any]) -> Any:
    """Search, confirm, and only then test; yields after each step, for whoever keeps the figures."""
    run["contenders"] = {}
    found: dict[str, Found] = {}
    budget = 0
    for name, contender in _contenders(task, size, seed).items():
        wall, cpu = task.journal.seconds, task.journal.cpu_seconds
        found[name] = contender(budget)
        if name == "paper":
            budget = found[name].item_generations // len(task.parts.search)
        run["contenders"][name] = {
            "position": _position(found[name]),
            "item_generations": found[name].item_generations,
            "seconds": round(task.journal.seconds - wall, 1),
            "cpu_seconds": round(task.journal.cpu_seconds - cpu, 1),
            "note": found[name].note,
        }
        print(f"{task.target.name}, seed {seed}, {name}: {found[name].note}", flush=True)
        yield
    for name in FINALISTS:
        run["contenders"][name]["confirm"] = _confirmed(task, found["best_expert"], found[name], seed)
        yield
    tested = {
        name: [task.scores(one, task.parts.test, smooth) for smooth in (False, True)] for name, one in found.items()
    }
    for name, scores in tested.items():
        run["contenders"][name]["test"] = {
            measure: {"mean": ours.utility}
            | {
                f"over_{rival}": asdict(paired_bootstrap(judged(tested[rival][i]), judged(ours), seed))
                for rival in ("base", "best_expert")
            }
            for i, (measure, ours) in enumerate(zip(("accuracy", "probability"), scores, strict=True))
        }
    yield


def _contenders(task: Task, size: Size, seed: int) -> dict[str, Callable[[int], Found]]:
    """By name, in this order; each takes the budget in positions, which the first one sets."""

    def baseline(name: str, space: str = "delta") -> Callable[[int], Found]:
        def found(budget: int) -> Found:
            scorer = Scorer(task.journal, task.utility(smooth=True), task.parts.search, space=space)  # type: ignore[arg-type]
            setting = Setting(scorer, task.folders, task.names, budget, seed, task.work, None, task.base)
            return (RIVALS | CONTROLS)[name](setting)

        return found

    def expert(number: int) -> Callable[[int], Found]:
        position = tuple(float(i == number) for i in range(len(task.names)))
        return lambda budget: Found(Single(Candidate(position)), 0, "as it is")

    def best_expert(budget: int) -> Found:
        found = baseline("best_expert")(budget)
        best = task.folders.index(found.contender.scored.folder)  # type: ignore[attr-defined]
        return replace(found, contender=expert(best)(budget).contender)  # asked about once, whatever it is called

    return {
        "paper": lambda budget: _searched(task, PRESETS["paper"], size, seed, None),
        "shoal": lambda budget: _searched(task, PRESETS["shoal"], size, seed, budget),
        "cma_es": lambda budget: _searched(task, CMA_ES, size, seed, budget),
        "random_in_hull": baseline("random_in_hull"),
        "scale_only": baseline("scale_only"),
        "best_expert": best_expert,
        "uniform_soup": baseline("uniform_soup"),
        "uniform_soup_factors": baseline("uniform_soup", "factors"),
        "base": lambda budget: Found(Single(BASE), 0, "no expert"),
        **{f"expert {name}": expert(number) for number, name in enumerate(task.names)},
    }


def _searched(task: Task, preset: Preset, size: Size, seed: int, budget: int | None) -> Found:
    """A preset, as large as the study's; ``budget`` in positions, None where the generations are the limit."""
    scorer = Scorer(task.journal, task.utility(preset.smooth), task.parts.search, space=preset.space)
    if preset.optimizer == "model_swarms":
        sized = {"particles": size.particles, "max_generations": size.generations}
    else:
        sized = {"population": max(4, size.particles), "max_generations": 1_000}
    search = make(preset.optimizer, n_experts=len(task.names), seed=seed, **preset.options | sized)
    limit = None if budget is None else budget * len(task.parts.search)
    best = climb(search, scorer, item_generations=limit)
    note = f"{best.utility:.4f} on the search items, in generation {best.generation} of {search.generation}"
    return Found(Single(Candidate(best.coefficients, preset.space)), scorer.item_generations, note)


def _confirmed(task: Task, before: Found, after: Found, seed: int) -> dict[str, Any]:
    """The gate on accuracy, on items that no search has seen."""
    items = task.parts.confirm
    return decide(*(judged(task.scores(one, items, False)) for one in (before, after)), seed=seed).to_json()


def judged(scores: Scores) -> list[float]:
    """Of every item: a choice can always be judged."""
    return [float(value) for value in scores.values if value is not None]


def _position(found: Found) -> dict[str, Any] | None:
    scored = getattr(found.contender, "scored", None)
    if not isinstance(scored, Candidate):
        return None
    return {"space": scored.space, "coefficients": [round(c, 4) for c in scored.coefficients]}


def table(run: dict[str, Any]) -> str:
    """A row a contender, the best on the test items first."""
    lines = [
        f"\n{run['target']['name']}, seed {run['seed']}: accuracy and mean probability of the right option on the test items",
        "| contender | accuracy | minus best expert, 95% | minus base, 95% | probability | minus best expert, 95% "
        "| minus base, 95% | item-generations | seconds | of a processor | position |",
        "|" + "---|" * 11,
    ]
    ranked = sorted(run["contenders"].items(), key=lambda entry: -entry[1]["test"]["accuracy"]["mean"])
    for name, told in ranked:
        cells = [name]
        for measure in ("accuracy", "probability"):
            test = told["test"][measure]
            cells += [f"{test['mean']:.1%}", _interval(test["over_best_expert"]), _interval(test["over_base"])]
        position = told["position"]
        written = (
            "" if position is None else f"{position['space']} " + " ".join(f"{c:.2f}" for c in position["coefficients"])
        )
        cells += [f"{told['item_generations']:,}", f"{told['seconds']:.0f}", f"{told['cpu_seconds']:.0f}", written]
        lines.append("| " + " | ".join(cells) + " |")
    for name in FINALISTS:
        reason = run["contenders"][name]["confirm"]["reason"]
        lines += [f"confirm, {name} against the best expert: {reason}"]
    return "\n".join(lines)


def _interval(interval: dict[str, float]) -> str:
    return f"{100 * interval['mean']:+.1f} ({100 * interval['low']:+.1f} to {100 * interval['high']:+.1f})"


if __name__ == "__main__":
    typer.run(main)
