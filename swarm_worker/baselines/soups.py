"""Model soups (Wortsman et al., arXiv:2203.05482): averages of experts."""

from __future__ import annotations

from collections.abc import Sequence

from swarm_worker.baselines.setting import Found, Setting
from swarm_worker.search import Coefficients


def uniform_soup(setting: Setting) -> Found:
    """All experts in equal parts. Costs nothing: nothing is chosen."""
    soup = setting.point(_average(range(setting.n_experts), setting.n_experts))
    return Found(setting.served(soup.coefficients, "uniform_soup"), 0, f"the average of {setting.n_experts} experts")


def greedy_soup(setting: Setting) -> Found:
    """From the best expert on, each next best one is kept if the average is then no worse on the search items (recipe 1 of
    the paper). Never below the best expert there. Costs up to 2n - 1 evaluations; a smaller budget stops it early."""
    ranking = setting.ranking()
    kept, utility = [ranking[0][0]], ranking[0][1]
    tried = ranking[1:][: setting.evaluations - setting.n_experts]
    for expert, _ in tried:
        wider = [*kept, expert]
        score = setting.utilities([setting.point(_average(wider, setting.n_experts))])[0]
        if score >= utility:
            kept, utility = wider, score
    spent = (setting.n_experts + len(tried)) * len(setting.items)
    soup = setting.point(_average(kept, setting.n_experts))
    names = " + ".join(setting.names[expert] for expert in kept)
    contender = setting.served(soup.coefficients, "greedy_soup")
    return Found(contender, spent, f"the average of {names}, {utility:.4f} on the search items")


def _average(experts: Sequence[int], n_experts: int) -> Coefficients:
    return tuple(1.0 / len(experts) if expert in experts else 0.0 for expert in range(n_experts))
