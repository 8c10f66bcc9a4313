"""Bayesian optimisation: what the contract does not say."""

from __future__ import annotations

import numpy as np
import pytest

from swarm_worker.search import Outcome, make

GOAL = np.array([0.9, 0.5, 0.7, -0.25, -0.2])


def run(name: str, evaluations: int, seed: int = 1, noise: float = 0.0, **options):
    """The true utility of the best position, within a budget of evaluations."""
    chance = np.random.default_rng(seed)
    search = make(name, n_experts=5, seed=seed, max_evaluations=evaluations, max_generations=99, **options)
    while search.should_stop is None:
        outcomes = []
        for move in search.ask():
            distance = float(((np.array(move.coefficients) - GOAL) ** 2).sum())
            outcomes.append(Outcome.of(move, np.exp(-distance / 2) + noise * chance.standard_normal()))
        search.tell(outcomes)
    return search


def test_it_needs_few_evaluations() -> None:
    """A smooth hill, its top outside the simplex: 40 evaluations come closer than 80 of CMA-ES do."""
    best = run("bayesian", 40, population=5).best
    np.testing.assert_allclose(best.coefficients, GOAL, atol=0.15)
    assert best.utility > run("cma_es", 80).best.utility


def test_noise_does_not_lead_it_astray() -> None:
    """With noise of 0.05 on every score, the position that it believes in is good in truth."""
    search = run("bayesian", 60, noise=0.05, population=5)
    assert np.exp(-((np.array(search.best.coefficients) - GOAL) ** 2).sum() / 2) > 0.8


def test_the_positions_of_a_generation_differ() -> None:
    """Believing in one position sends the next one elsewhere."""
    search = make("bayesian", n_experts=3, seed=1, population=4, draws=100)
    search.tell([Outcome.of(move, 0.1 * move.particle) for move in search.ask()])
    asked = np.array([move.coefficients for move in search.ask()])
    distances = np.linalg.norm(asked[:, None] - asked[None], axis=2)[np.triu_indices(4, 1)]
    assert distances.min() > 1e-3


def test_where_it_fails_it_does_not_go_again() -> None:
    """What could not be scored counts as the worst: the next generation keeps away."""
    asked = {}
    for failing in (False, True):
        search = make("bayesian", n_experts=2, seed=1, population=4, max_generations=9, bounds=(-1.0, 2.0))
        while search.should_stop is None:
            moves = search.ask()
            asked[failing] = [move.coefficients[0] for move in moves]
            search.tell(
                [Outcome.of(m, None if failing and m.coefficients[0] > 1.2 else m.coefficients[0], "x") for m in moves]
            )
    assert min(asked[False]) > 1.9
    assert np.mean(asked[True]) < 1.5


def test_positions_stay_within_bounds() -> None:
    """No coefficient leaves the bounds, though the utility grows beyond them."""
    search = make("bayesian", n_experts=3, seed=1, bounds=[-0.2, 1.0], population=3, max_generations=4, draws=50)
    while search.should_stop is None:
        moves = search.ask()
        assert all(-0.2 <= c <= 1.0 for move in moves for c in move.coefficients)
        search.tell([Outcome.of(m, sum(m.coefficients)) for m in moves])


@pytest.mark.parametrize(("field", "value"), [("bounds", (0.5, 1.0)), ("draws", 3), ("population", 0)])
def test_a_mistaken_option_is_named(field: str, value: object) -> None:
    """The error names the option."""
    with pytest.raises(ValueError, match=f"{field} must be"):
        make("bayesian", n_experts=3, seed=1, **{field: value})
