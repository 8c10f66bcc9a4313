"""The honest table: what everybody gets right of the same held-out items, that no search, confirmation or gate saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from registry.records import Run, Snapshot
from starter.skills import Item
from swarm_worker.baselines import BASELINES, Contender, Setting, Single
from swarm_worker.confirm import rated
from swarm_worker.gate import Interval, paired_bootstrap
from swarm_worker.scorer import Scorer
from swarm_worker.scoring.engine import BASE, AdapterFolder, Asked, Prompt
from swarm_worker.scoring.transformers import TransformersEngine
from swarm_worker.utilities import UTILITIES

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
    base: Path,
    run: Run,
    snapshot: Snapshot,
    folders: Sequence[Path],
    adapted: Path,
    scratch: Path,
    max_rank: int,
) -> dict[str, Contender]:
    """Everybody who is compared. Baselines have the run's own search items, utility and budget of evaluations, starts
    included, and are cut to the same rank as what is served."""
    engine.set_experts(list(folders))
    champion = AdapterFolder(
        next(
            folder
            for folder, expert in zip(folders, run.experts, strict=True)
            if run.champion and expert.version == run.champion.version
        )
    )
    items = [rated(item) for item in snapshot.search]
    setting = Setting(
        scorer=Scorer(engine, UTILITIES[run.spec.utility], items, space=run.spec.space, reference=champion),
        folders=tuple(folders),
        names=tuple(expert.name for expert in run.experts),
        evaluations=run.item_generations // len(items),
        seed=run.spec.seed,
        scratch=scratch,
        max_rank=max_rank,
        base=base,
    )
    found = {name: BASELINES[name](setting).contender for name in ("best_expert", "uniform_soup", "random_in_hull")}
    return {
        "base": Single(BASE),
        "best_expert": found["best_expert"],
        "champion_before": Single(champion),
        "adapted": Single(AdapterFolder(adapted)),
        "uniform_soup": found["uniform_soup"],
        "random_in_hull": found["random_in_hull"],
    }


def compare(
    engine: TransformersEngine, everybody: dict[str, Contender], items: Sequence[Item], *, seed: int
) -> Comparison:
    """Let everybody answer the same items greedily; a right answer is an exactly right one."""
    right = {}
    questions: tuple[Prompt, ...] = tuple([{"role": "user", "content": item.prompt}] for item in items)
    for name, contender in everybody.items():
        answers = contender.told(engine, Asked(answers=questions, max_tokens=MAX_TOKENS)).answers
        right[name] = [float(item.is_right(answer)) for item, answer in zip(items, answers, strict=True)]
    return Comparison(
        n=len(items),
        right={name: sum(scores) / len(scores) for name, scores in right.items()},
        over_champion=paired_bootstrap(right["champion_before"], right["adapted"], seed),
        over_best_expert=paired_bootstrap(right["best_expert"], right["adapted"], seed),
    )
