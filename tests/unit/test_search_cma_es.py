"""CMA-ES and random search: what the contract does not say."""

from __future__ import annotations

import numpy as np

from swarm_worker.search import Outcome, make

GOAL = np.array([0.9, 0.5, 0.7, -0.25, -0.2])


def run(search):
    while search.should_stop is None:
        search.tell(
            [Outcome.of(m, float(np.exp(-((np.array(m.coefficients) - GOAL) ** 2).sum()))) for m in search.ask()]
        )
    return search


def test_cma_es_finds_a_point_outside_the_simplex() -> None:
    """The sum of the coefficients is free, and negative ones are reached: the top of the hill is found."""
    best = run(make("cma_es", n_experts=5, seed=1)).best
    np.testing.assert_allclose(best.coefficients, GOAL, atol=0.1)


def test_cma_es_begins_at_the_best_start() -> None:
    """Generation 1 is drawn around the start that scored best."""
    search = make("cma_es", n_experts=5, seed=1, sigma0=0.01)
    search.tell([Outcome.of(m, 0.9 if m.particle == 3 else 0.1) for m in search.ask()])
    for move in search.ask():
        np.testing.assert_allclose(move.coefficients, np.eye(5)[3], atol=0.06)


def test_positions_stay_within_bounds() -> None:
    """Neither search leaves the bounds."""
    for name in ("cma_es", "random_search"):
        search = make(name, n_experts=3, seed=1, bounds=[-0.2, 1.0], max_generations=5)
        while search.should_stop is None:
            moves = search.ask()
            assert all(-0.2 <= c <= 1.0 for move in moves for c in move.coefficients)
            search.tell([Outcome.of(m, sum(m.coefficients)) for m in moves])


def test_a_failed_position_ranks_last() -> None:
    """CMA-ES moves as if a failure had been the worst of its generation."""
    asked = []
    for lowest in (None, 0.0):
        search = make("cma_es", n_experts=3, seed=1)
        search.tell([Outcome.of(m, 0.1 * m.particle) for m in search.ask()])
        search.tell([Outcome.of(m, lowest if m.particle == 4 else 0.1 + m.particle / 100, "x") for m in search.ask()])
        asked.append([move.coefficients for move in search.ask()])
    assert asked[0] == asked[1]


def test_random_search_learns_nothing() -> None:
    """Its positions do not depend on the scores: it is the control."""
    asked = []
    for score in (0.1, 0.9):
        search, positions = make("random_search", n_experts=3, seed=1, max_generations=4), []
        while search.should_stop is None:
            positions += [move.coefficients for move in search.ask()]
            search.tell([Outcome.of(m, score * m.particle) for m in search.ask()])
        asked.append(positions)
    assert asked[0] == asked[1]


def test_random_search_draws_both_kinds() -> None:
    """About half of the draws are mixes without a negative coefficient, half are excursions; sums differ from 1."""
    search = make("random_search", n_experts=6, seed=1, population=200)
    search.tell([Outcome.of(m, 0.5) for m in search.ask()])
    draws = np.array([move.coefficients for move in search.ask()])
    assert 0.4 < (draws.min(axis=1) >= 0).mean() < 0.65
    assert draws.sum(axis=1).std() > 0.3


def test_random_search_can_stay_in_the_swarms_hull() -> None:
    """With sum_to_one its positions are where a swarm's are."""
    search = make("random_search", n_experts=6, seed=1, population=50, sum_to_one=True)
    search.tell([Outcome.of(m, 0.5) for m in search.ask()])
    np.testing.assert_allclose([sum(move.coefficients) for move in search.ask()], 1.0)
