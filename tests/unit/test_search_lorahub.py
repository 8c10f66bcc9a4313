"""LoraHub: what the contract does not say."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from swarm_worker.search import Outcome, from_json, make

GOAL = np.array([0.9, 0.5, -0.4, 0.2])


def hill(coefficients: tuple[float, ...]) -> float:
    return float(np.exp(-((np.array(coefficients) - GOAL) ** 2).sum()))


def run(search, utility=hill):
    """To the end; the positions after generation 0, too."""
    positions = []
    while search.should_stop is None:
        moves = search.ask()
        positions += [move.coefficients for move in moves] if search.generation else []
        search.tell([Outcome.of(move, utility(move.coefficients)) for move in moves])
    return search, positions


def test_as_published_it_starts_at_zeros_one_at_a_time() -> None:
    """40 evaluations after the starts, the first of them the base model itself; all within 1.5."""
    search, positions = run(make("lorahub", n_experts=4, seed=1))
    assert len(positions) == 40
    assert positions[0] == (0.0,) * 4
    assert np.abs(positions).max() <= 1.5
    assert search.evaluations == 5 + 40


def test_it_finds_a_point_outside_the_simplex() -> None:
    """Sums and signs are free. Without the L1 term the top of the hill is found."""
    search, _ = run(make("lorahub", n_experts=4, seed=1, l1=0.0))
    np.testing.assert_allclose(search.best.coefficients, GOAL, atol=0.1)


def test_the_l1_term_draws_to_zero() -> None:
    """Where utility does not care, all coefficients go to zero; ``best`` is by utility alone, the first of equals."""
    flat, positions = run(make("lorahub", n_experts=4, seed=1), lambda c: 0.5)
    assert np.abs(positions[-5:]).mean() < 0.1
    assert flat.best.coefficients == (1.0, 0.0, 0.0, 0.0)


def test_the_l1_term_is_the_mean_absolute_coefficient() -> None:
    """l1 * mean |c| is taken off: adding exactly that to the utility gives the moves of the search without the term."""

    def penalty(c: tuple[float, ...]) -> float:
        return 2.0 * float(np.mean(np.abs(c)))

    rules = {"n_experts": 4, "seed": 1, "max_generations": 8}  # later ones turn on what rounding takes off a utility
    _, without = run(make("lorahub", l1=0.0, **rules))
    _, taken_off = run(make("lorahub", l1=2.0, **rules))
    _, given_back = run(make("lorahub", l1=2.0, **rules), lambda c: hill(c) + penalty(c))
    np.testing.assert_allclose(given_back, without, atol=1e-3)
    assert np.abs(np.subtract(taken_off, without)).max() > 0.1


@pytest.mark.parametrize("population", [1, 3])
def test_a_state_goes_through_json_anywhere(population: int) -> None:
    """One at a time (a thread of nevergrad's own) and several: a replayed search goes on as the original does."""
    rules = {"population": population, "max_generations": 5}
    search, expected = run(make("lorahub", n_experts=4, seed=1, **rules))
    other, positions = make("lorahub", n_experts=4, seed=1, **rules), []
    while other.should_stop is None:
        other = from_json(json.loads(json.dumps(other.to_json())))
        moves = other.ask()
        positions += [move.coefficients for move in moves] if other.generation else []
        other.tell([Outcome.of(move, hill(move.coefficients)) for move in moves])
    assert positions == expected
    assert other.to_json() == search.to_json()


def test_a_replay_that_leads_elsewhere_is_refused() -> None:
    """A state saved by another nevergrad is not continued in silence."""
    search = make("lorahub", n_experts=4, seed=1, population=3)
    for _ in range(3):
        search.tell([Outcome.of(move, hill(move.coefficients)) for move in search.ask()])
    saved = search.to_json()
    saved["positions"][0][0] += 0.01
    with pytest.raises(ValueError, match="another nevergrad"):
        from_json(saved)


def test_nothing_outside_changes_it_nor_does_it_change_anything() -> None:
    """numpy's global generator is as it was, and its state has no say."""
    ends = []
    for seed in (1, 2):
        np.random.seed(seed)
        before = np.random.get_state()[1].tolist()
        ends.append(run(make("lorahub", n_experts=4, seed=1, population=4, max_generations=6))[1])
        assert np.random.get_state()[1].tolist() == before
    assert ends[0] == ends[1]


def test_failures_do_not_win() -> None:
    """A position that could not be scored counts as the worst one, and the search goes on from the others."""
    search = make("lorahub", n_experts=4, seed=1, l1=0.0)
    while search.should_stop is None:
        lost = search.generation in (4, 9)
        search.tell([Outcome.of(m, None if lost else hill(m.coefficients), "killed") for m in search.ask()])
    assert search.should_stop == "all 40 generations are done"
    assert search.best.utility > 0.8


def test_an_unfinished_search_lets_the_process_end() -> None:
    """NGOpt may hold a thread that waits for a score; a process that leaves it waiting still exits."""
    code = (
        "from swarm_worker.search import Outcome, make\n"
        "search = make('lorahub', n_experts=4, seed=1)\n"
        "for _ in range(3): search.tell([Outcome.of(m, 0.5) for m in search.ask()])\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
