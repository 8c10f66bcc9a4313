"""One search without a server, from config to a delivered adapter: climb, cut, confirm, test, write it all down.

The folder of a run::

    adapter/       the finalist as a PEFT folder, cut to ``max_rank``
    run.json       what it is, where it comes from, what it scored; report.md, utility.png, coefficients.png: for people
    state.json, cache.jsonl   the journal: a second call goes on where the first one ended
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from registry.artifacts import digest_of_folder
from swarm_worker import search as optimizers
from swarm_worker.formula import describe
from swarm_worker.hull import Cut, ExpertStack
from swarm_worker.offline.evidence import Evidence, weigh
from swarm_worker.offline.journal import Journal
from swarm_worker.offline.scene import Scene, versions
from swarm_worker.racing import RacingScorer
from swarm_worker.scorer import Scorer, climb
from swarm_worker.scoring.engine import BASE, AdapterFolder, Scored
from swarm_worker.search import Coefficients, Move, Outcome
from swarm_worker.search.generations import Generations
from swarm_worker.splits import select_and_gate
from swarm_worker.utilities import Item, Scores


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a search stands. ``share``: of what it may spend, as far as that is known; ``best``: utility so far."""

    step: str
    generation: int = 0
    item_generations: int = 0
    share: float = 0.0
    best: float | None = None


Watch = Callable[[Progress], None]


class _Recorder:
    """A scorer that keeps what it was asked and what it answered, generation by generation."""

    def __init__(self, inner: Scorer | RacingScorer, generations: list[dict[str, Any]]) -> None:
        self.inner = inner
        self.items = inner.items
        self.item_generations = inner.item_generations
        self.generations = generations

    def outcomes(self, moves: Sequence[Move]) -> list[Outcome]:
        outcomes = self.inner.outcomes(moves)
        self.item_generations = self.inner.item_generations
        self.generations.append(
            {
                "generation": moves[0].generation,
                "positions": [list(move.coefficients) for move in moves],
                "utilities": [outcome.utility for outcome in outcomes],
                "item_generations": self.item_generations,
            }
        )
        return outcomes


@dataclass(frozen=True)
class Climbed:
    """A search that has stopped, and why."""

    optimizer: Generations
    scorer: Scorer | RacingScorer
    generations: list[dict[str, Any]]
    seconds: float
    stopped: str


@dataclass(frozen=True)
class Finalist:
    """A position as users would get it: cut, in a folder."""

    coefficients: Coefficients
    folder: Path
    cut: Cut


def run(scene: Scene, folder: Path, watch: Watch = lambda progress: None) -> dict[str, Any]:
    """Search, or go on searching, in ``folder``; what ``run.json`` says. Asked again of a finished run: the same answer.

    May be interrupted at any moment: the next call goes on after the last whole generation and ends with the same
    result. Raises ``OtherRun`` where the folder's run is another one.
    """
    from swarm_worker.offline import report

    journal = Journal(folder, scene.identity())
    if finished := report.read(folder):
        return finished
    climbed = _climb(scene, journal, watch)
    return report.write(folder, _deliver(scene, climbed, folder, watch))


def _climb(scene: Scene, journal: Journal, watch: Watch) -> Climbed:
    saved = journal.saved
    inner = scene.search_scorer(journal.cache)
    optimizer = scene.optimizer() if saved is None else optimizers.from_json(saved["optimizer"])
    if saved is not None:
        _restore(inner, saved["bill"])
    recorder = _Recorder(inner, [] if saved is None else saved["generations"])
    before, began = (0.0 if saved is None else saved["seconds"]), time.monotonic()

    def seconds() -> float:
        return before + time.monotonic() - began

    def note(search: Generations, outcomes: list[Outcome]) -> None:
        journal.save(
            optimizer=search.to_json(),
            bill=_bill(inner),
            generations=recorder.generations,
            seconds=round(seconds(), 3),
        )
        watch(_progress(scene, search, recorder))

    watch(_progress(scene, optimizer, recorder))
    climb(optimizer, recorder, item_generations=scene.budget, on_generation=note)
    stopped = optimizer.should_stop or f"{inner.item_generations} of {scene.budget} item-generations are spent"
    return Climbed(optimizer, inner, recorder.generations, seconds(), stopped)


def _progress(scene: Scene, optimizer: Generations, recorder: _Recorder) -> Progress:
    spent = recorder.item_generations
    shares = [len(recorder.generations) / (optimizer.options.max_generations + 1)]
    if scene.budget:
        shares.append(spent / scene.budget)
    if optimizer.options.max_evaluations:
        shares.append(optimizer.evaluations / optimizer.options.max_evaluations)
    best = None if optimizer.best is None else optimizer.best.utility
    return Progress("searching", len(recorder.generations), spent, min(1.0, max(shares)), best)


def _bill(scorer: Scorer | RacingScorer) -> dict[str, Any]:
    if isinstance(scorer, RacingScorer):
        return scorer.to_json()
    return {"item_generations": scorer.item_generations, "computed": scorer.computed}


def _restore(scorer: Scorer | RacingScorer, bill: dict[str, Any]) -> None:
    if isinstance(scorer, RacingScorer):
        scorer.restore(bill)
    else:
        scorer.item_generations, scorer.computed = bill["item_generations"], bill["computed"]


def finalists(generations: list[dict[str, Any]], k: int) -> list[Coefficients]:
    """The k positions with the highest search utility, each once; of equals the earlier."""
    scored = [
        (utility, tuple(position))
        for generation in generations
        for position, utility in zip(generation["positions"], generation["utilities"], strict=True)
        if utility is not None
    ]
    ranked = dict.fromkeys(position for _, position in sorted(scored, key=lambda one: -one[0]))  # sorting is stable
    return list(ranked)[:k]


def best_expert(scene: Scene, generations: list[dict[str, Any]]) -> str:
    """The expert with the highest utility on the search items; every search scores them first."""
    columns = scene.hull.columns(len(scene.names))
    scored = {
        tuple(position): utility
        for position, utility in zip(generations[0]["positions"], generations[0]["utilities"], strict=True)
    }
    alone = {
        name: scored.get(tuple(float(i == number) for i in range(columns)) * scene.hull.layer_groups)
        for number, name in enumerate(scene.names)
    }
    known = {name: utility for name, utility in alone.items() if utility is not None}
    if not known:
        raise ValueError("no expert could be scored alone: there is nothing to confirm the finalist against")
    return max(known, key=lambda name: known[name])


def _deliver(scene: Scene, climbed: Climbed, folder: Path, watch: Watch) -> dict[str, Any]:
    """Cut, choose, confirm, test. Only this may look at confirm and test items."""
    best = best_expert(scene, climbed.generations)
    rival = scene.config.champion or best
    positions = finalists(climbed.generations, scene.config.finalists)
    drawn = _cut(scene, positions, folder / "finalists")
    confirm = list(scene.items.confirm)
    selected, choice = drawn[0], None
    if len(drawn) > 1:
        watch(Progress(f"choosing among {len(drawn)} finalists", share=1.0))
        select, confirm = map(list, select_and_gate(confirm, seed=scene.config.seed, by=scene.config.data.by))
        selected, choice = _choose(scene, drawn, select)
    watch(Progress("confirming", share=1.0))
    everybody: dict[str, Scored] = {"base": BASE, best: AdapterFolder(scene.config.experts[best])}
    everybody |= {rival: BASE if rival == "base" else AdapterFolder(scene.config.experts[rival])}
    everybody |= {"found": AdapterFolder(selected.folder)}
    confirmed, evidence = _compared(scene, everybody, rival, confirm)
    watch(Progress("testing", share=1.0))
    tested, gain = _compared(scene, everybody, rival, scene.items.test) if scene.items.test else (None, None)
    shutil.rmtree(folder / "adapter", ignore_errors=True)
    selected.folder.rename(folder / "adapter")
    shutil.rmtree(folder / "finalists", ignore_errors=True)
    return {
        "identity": scene.identity(),
        "experts": dict(zip(scene.names, scene.digests, strict=True)),
        "names": scene.hull.dimension_names(scene.names),
        "coefficients": list(selected.coefficients),
        "formula": describe(scene.hull.dimension_names(scene.names), selected.coefficients),
        "space": scene.config.space,
        "adapter": {"digest": digest_of_folder(folder / "adapter"), **asdict(selected.cut)},
        "seed": scene.config.seed,
        "utility": repr(scene.utility),
        "score": repr(scene.score),
        "items": {
            "search": len(scene.items.search),
            "confirm": len(confirm),
            "test": len(scene.items.test),
        },
        "item_digests": scene.items.digests(),
        "search": _searched(climbed),
        "best_expert": best,
        "rival": rival,
        "choice": choice,
        "confirm": {"scores": confirmed, "evidence": evidence.to_json()},
        "test": None if tested is None or gain is None else {"scores": tested, "evidence": gain.to_json()},
        "passed": evidence.better,
        "seconds": {"search": round(climbed.seconds, 3)},
        "versions": versions(),
    }


def _searched(climbed: Climbed) -> dict[str, Any]:
    scorer = climbed.scorer
    return {
        "optimizer": climbed.optimizer.name,
        "options": climbed.optimizer.to_json()["options"],
        "stopped": climbed.stopped,
        "generations": climbed.generations,
        "evaluations": climbed.optimizer.evaluations,
        "item_generations": scorer.item_generations,
        "positions_stopped_early": scorer.stopped if isinstance(scorer, RacingScorer) else 0,
        "utility": None if climbed.optimizer.best is None else climbed.optimizer.best.utility,
    }


def _cut(scene: Scene, positions: Sequence[Coefficients], folder: Path) -> list[Finalist]:
    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted call left
    stack = ExpertStack.load(list(scene.folders), scene.hull)
    drawn = []
    for number, position in enumerate(positions):
        place = folder / str(number)
        cut = stack.write(position, place, space=scene.config.space, max_rank=scene.config.hull.max_rank)
        drawn.append(Finalist(position, place, cut))
    return drawn


def _choose(scene: Scene, drawn: list[Finalist], items: Sequence[Item]) -> tuple[Finalist, dict[str, Any]]:
    """The finalist with the highest utility on ``items``, a half of confirm that the gate then does not see."""
    scores = scene.measured({str(i): AdapterFolder(one.folder) for i, one in enumerate(drawn)}, items)
    utilities = [score.utility for score in scores.values()]
    chosen = max(range(len(drawn)), key=lambda i: round(utilities[i], 6))
    return drawn[chosen], {"items": len(items), "utilities": utilities, "chosen": chosen}


def _compared(
    scene: Scene, everybody: dict[str, Scored], rival: str, items: Sequence[Item]
) -> tuple[dict[str, Any], Evidence]:
    """Everybody's scores, and whether the found one is better than its rival."""
    scores = scene.measured(everybody, items)
    evidence = weigh(scene.utility, items, scores[rival].values, scores["found"].values, seed=scene.config.seed)
    return {name: summary(score) for name, score in scores.items()}, evidence


def summary(scores: Scores) -> dict[str, Any]:
    """What a table shows of somebody's scores. ``standard_error``: of the mean of the items' scores."""
    known = [value for value in scores.values if value is not None]
    centre = sum(known) / len(known) if known else 0.0
    spread = (sum((v - centre) ** 2 for v in known) / (len(known) - 1)) ** 0.5 if len(known) > 1 else 0.0
    return {
        "utility": scores.utility,
        "standard_error": spread / max(1, len(known)) ** 0.5,
        "malformed": scores.malformed,
        "unjudged": scores.unjudged,
        "values": list(scores.values),
    }
