"""The honest table: what everybody gets right of the same held-out items, that no search, confirmation or gate saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from registry.records import Run, Snapshot
from starter.skills import Item
from swarm_worker.baselines import BASELINES
from swarm_worker.confirm import rated
from swarm_worker.gate import Interval, paired_bootstrap
from swarm_worker.hull import ExpertStack
from swarm_worker.scoring.engine import BASE, AdapterFolder, Candidate, Scored
from swarm_worker.scoring.transformers import TransformersEngine
from swarm_worker.utilities import UTILITIES, mean

MAX_TOKENS = 24


@dataclass(frozen=True)
class Comparison:
    """Shares of right answers by contender, and paired 95% intervals of the adapted version's gain."""

    n: int
    right: dict[str, float]
    over_champion: Interval
    over_best_expert: Interval


def contenders(
    engine: TransformersEngine,
    run: Run,
    snapshot: Snapshot,
    folders: Sequence[Path],
    adapted: Path,
    scratch: Path,
    max_rank: int,
) -> dict[str, Scored]:
    """Everybody who is compared. The best expert was chosen on search items; the random search in the same hull climbed on
    the same items with the same utility for as many evaluations, and is cut to the same rank as what is served."""
    engine.set_experts(list(folders))
    n = len(folders)
    names = [expert.name for expert in run.experts]
    champion = next(
        i for i, expert in enumerate(run.experts) if run.champion and expert.version == run.champion.version
    )
    best = names.index(run.best_expert or names[0])
    found = random_in_hull(engine, run, snapshot, AdapterFolder(folders[champion]))
    ExpertStack.load(list(folders)).write(found, scratch / "random", space=run.spec.space, max_rank=max_rank)
    return {
        "base": BASE,
        "best_expert": AdapterFolder(folders[best]),
        "champion_before": AdapterFolder(folders[champion]),
        "adapted": AdapterFolder(adapted),
        "uniform_soup": Candidate((1 / n,) * n, run.spec.space),
        "random_in_hull": AdapterFolder(scratch / "random"),
    }


def random_in_hull(engine: TransformersEngine, run: Run, snapshot: Snapshot, champion: Scored) -> tuple[float, ...]:
    """The best of random positions in the hull, at exactly the run's own budget of evaluations, starts included."""
    items = [rated(item) for item in snapshot.search]
    utility = UTILITIES[run.spec.utility]
    reference = utility.prepare(engine, champion, items)

    def score(coefficients: tuple[float, ...]) -> float:
        return mean(utility.scores(engine, Candidate(coefficients, run.spec.space), items, reference))

    budget = run.item_generations // len(items)
    return BASELINES["random_in_hull"](score, len(run.experts), budget, run.spec.seed)


def compare(
    engine: TransformersEngine, everybody: dict[str, Scored], items: Sequence[Item], *, seed: int
) -> Comparison:
    """Let everybody answer the same items greedily; a right answer is an exactly right one."""
    right = {}
    for name, scored in everybody.items():
        answers = engine.generate(scored, [[{"role": "user", "content": item.prompt}] for item in items], MAX_TOKENS)
        right[name] = [float(item.is_right(answer)) for item, answer in zip(items, answers, strict=True)]
    return Comparison(
        n=len(items),
        right={name: sum(scores) / len(scores) for name, scores in right.items()},
        over_champion=paired_bootstrap(right["champion_before"], right["adapted"], seed),
        over_best_expert=paired_bootstrap(right["best_expert"], right["adapted"], seed),
    )
