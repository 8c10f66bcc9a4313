"""Other searches of the same hull, with the same scorer and budget: LoraHub's, and one that looks at nothing."""

from __future__ import annotations

from typing import Any

from swarm_worker.baselines.setting import Found, Setting
from swarm_worker.scorer import climb
from swarm_worker.search import make
from swarm_worker.search.generations import Generations

MOST_AT_ONCE = 16


def lorahub(setting: Setting) -> Found:
    """LoraHub (Huang et al., arXiv:2307.13269): nevergrad over the coefficients, with its L1 term. Costs the budget."""
    starts = len(_search("lorahub", setting).starts)
    setting.require(starts + 1, "to score the starts and a move")
    return _climbed(_search("lorahub", setting, max_generations=setting.evaluations - starts), setting)


def random_in_hull(setting: Setting) -> Found:
    """A control: the best of random positions, the starts among them. Costs exactly the budget."""
    starts = len(_search("random_search", setting).starts)
    setting.require(starts, "to score the starts")
    draws = setting.evaluations - starts
    # Draws do not look at each other: as many at once as divide them evenly.
    at_once = max(size for size in range(1, MOST_AT_ONCE + 1) if draws % size == 0)
    search = _search("random_search", setting, population=at_once, max_generations=draws // at_once)
    return _climbed(search, setting)


def _search(name: str, setting: Setting, **options: Any) -> Generations:
    columns = setting.hull.columns(setting.n_experts)
    return make(name, n_experts=columns, seed=setting.seed, groups=setting.hull.layer_groups, **options)


def _climbed(search: Generations, setting: Setting) -> Found:
    before = setting.scorer.item_generations
    best = climb(search, setting.scorer, item_generations=before + setting.item_generations)
    spent = setting.scorer.item_generations - before
    note = f"{best.utility:.4f} on the search items, in generation {best.generation} of {search.generation}"
    return Found(setting.served(best.coefficients, search.name), spent, note)
