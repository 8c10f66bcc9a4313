"""What a search must beat, in one table: each turns the same experts and the same scorer into coefficients.

``score`` is the utility of a position on the search items; whatever a baseline spends on it counts.
"""

from __future__ import annotations

from collections.abc import Callable

from swarm_worker.search import Coefficients, Outcome, make

Score = Callable[[Coefficients], float]
Baseline = Callable[[Score, int, int, int], Coefficients]


def best_expert(score: Score, n_experts: int, evaluations: int = 0, seed: int = 0) -> Coefficients:
    """The expert that scores highest on the search items, alone; the first of equals. Costs ``n_experts``."""
    experts = [tuple(float(i == expert) for i in range(n_experts)) for expert in range(n_experts)]
    return max(experts, key=score)


def uniform_soup(score: Score, n_experts: int, evaluations: int = 0, seed: int = 0) -> Coefficients:
    """All experts in equal parts (Wortsman et al., arXiv:2203.05482, uniform soup). Costs nothing."""
    return (1.0 / n_experts,) * n_experts


def random_in_hull(score: Score, n_experts: int, evaluations: int, seed: int = 0) -> Coefficients:
    """The best of ``evaluations`` random positions, the starts among them. Raises ``ValueError`` where the budget does
    not cover the starts."""
    starts = n_experts + 1
    if evaluations < starts:
        raise ValueError(f"{evaluations} evaluations do not cover the {starts} starts")
    draws = evaluations - starts
    search = make("random_search", n_experts=n_experts, seed=seed, max_generations=draws, population=1)
    while search.should_stop is None:
        search.tell([Outcome.of(move, score(move.coefficients)) for move in search.ask()])
    if search.best is None:
        raise ValueError("no position could be scored")
    return search.best.coefficients


BASELINES: dict[str, Baseline] = {
    "best_expert": best_expert,
    "uniform_soup": uniform_soup,
    "random_in_hull": random_in_hull,
}
