"""What a run on this pack usually gains: a few whole adaptations, each measured on fresh items of its own.

The demo reckons the power of its gate from this. Items are drawn from ``traffic`` under seeds of their own: never from
``test``, which claims are measured on, and never from what the experts were trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev

from starter.skills import Item, check_disjoint, items
from swarm_worker import search
from swarm_worker.hull import ExpertStack
from swarm_worker.scoring.engine import AdapterFolder, Candidate, Scored, answers_of
from swarm_worker.scoring.transformers import TransformersEngine
from swarm_worker.search import Outcome
from swarm_worker.utilities.preference import Preference
from swarm_worker.utilities.utility import Item as RatedItem
from swarm_worker.utilities.utility import measure, reference_of

MAX_TOKENS = 24
SERVED_RANK = 16  # the starter service's ``max_lora_rank``
MEASURED_SEED = 9000  # far from the seeds that the demo and the benchmarks draw their traffic with


@dataclass(frozen=True)
class Adaptation:
    """How one adaptation is imitated: rated items, evaluations of the search, items that its gain is measured on."""

    rated: int = 150
    evaluations: int = 250
    measured: int = 600
    beta: float = field(default_factory=lambda: Preference().beta)
    """The product's own, unless told otherwise: the effect is that of the runs that users make."""


def measure_effect(base: Path, experts: Sequence[Path], scratch: Path, how: Adaptation, runs: int) -> dict[str, float]:
    """The mean gain over the first expert and its spread from item to item, both as shares, over ``runs`` runs.

    ``scratch`` is a folder for the adapted versions. ``between_runs`` is the standard deviation of the gain from run to
    run, 0 for a single run.
    """
    engine = TransformersEngine.load(base, list(experts))
    champion = AdapterFolder(experts[0])
    differences: list[list[float]] = []
    for run in range(runs):
        asked = items("blend", "traffic", how.rated, MEASURED_SEED + 2 * run)
        held_out = items("blend", "traffic", how.measured, MEASURED_SEED + 2 * run + 1)
        used = {item.digest for item in asked}
        fresh = [item for item in held_out if item.digest not in used]  # one split: a repeat is rare but possible
        check_disjoint(asked, fresh)
        found = climb(engine, champion, feedback(engine, champion, asked), len(experts), how, seed=run)
        folder = scratch / f"adapted-{run}"
        ExpertStack.load(list(experts)).write(found, folder, space="delta", max_rank=SERVED_RANK)
        before, after = right(engine, champion, fresh), right(engine, AdapterFolder(folder), fresh)
        differences.append([b - a for a, b in zip(before, after, strict=True)])
    gains = [fmean(run) for run in differences]
    return {
        "difference": round(fmean(gains), 3),
        "spread": round(stdev([one for run in differences for one in run]), 3),
        "between_runs": round(stdev(gains), 3) if runs > 1 else 0.0,
    }


def feedback(engine: TransformersEngine, champion: Scored, asked: Sequence[Item]) -> list[RatedItem]:
    """What users say to the champion's greedy answers: right ones are rated up, wrong ones corrected."""
    answers = answers_of(engine, champion, [_chat(item) for item in asked], MAX_TOKENS)
    return [
        RatedItem(messages=_chat(item), good=item.answer, bad=None if item.is_right(answer) else answer)
        for item, answer in zip(asked, answers, strict=True)
    ]


def climb(
    engine: TransformersEngine, champion: Scored, rated: Sequence[RatedItem], n: int, how: Adaptation, seed: int
) -> tuple[float, ...]:
    """The best coefficients that CMA-ES finds on the feedback within the budget of evaluations."""
    utility = Preference(beta=how.beta)
    reference = reference_of(utility, engine, champion, rated)
    budget = {"max_evaluations": how.evaluations, "max_generations": how.evaluations}
    optimizer = search.make("cma_es", n_experts=n, seed=seed, **budget)
    while not optimizer.should_stop:
        moves = optimizer.ask()
        scores = measure(utility, engine, [Candidate(move.coefficients) for move in moves], rated, reference)
        optimizer.tell([Outcome.of(move, score.utility) for move, score in zip(moves, scores, strict=True)])
    if optimizer.best is None:
        raise RuntimeError("no position of the search could be scored")
    return optimizer.best.coefficients


def right(engine: TransformersEngine, scored: Scored, asked: Sequence[Item]) -> list[float]:
    """Per item, 1.0 where the greedy answer is exactly right."""
    answers = answers_of(engine, scored, [_chat(item) for item in asked], MAX_TOKENS)
    return [float(item.is_right(answer)) for item, answer in zip(asked, answers, strict=True)]


def _chat(item: Item) -> list[dict[str, str]]:
    return [{"role": "user", "content": item.prompt}]
