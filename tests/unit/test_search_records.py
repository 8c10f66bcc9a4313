"""Moves, outcomes and the table of searches."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from swarm_worker.search import Move, Outcome, from_json, make
from swarm_worker.search.draws import uniforms


def test_records_go_through_json() -> None:
    """A move and an outcome come back from JSON as they were."""
    move = Move(3, 1, (0.1, -0.2, 1.1))
    assert Move.from_json(move.to_json()) == move
    for outcome in (Outcome(3, 1, 0.25), Outcome(3, 1, None, "killed")):
        assert Outcome.from_json(outcome.to_json()) == outcome


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_utility_that_is_no_number_is_a_failure(value: float) -> None:
    """NaN and infinity never enter a comparison: they are refused, or become failures that say so."""
    with pytest.raises(ValueError, match="finite"):
        Outcome(0, 0, value)
    outcome = Outcome.of(Move(0, 0, (1.0,)), value)
    assert outcome.utility is None
    assert str(value) in outcome.error


def test_an_unknown_search_names_the_choices() -> None:
    """Both ways to name a search say which there are."""
    with pytest.raises(ValueError, match=r"one of bayesian, cma_es, .*, random_search, not 'sgd'"):
        make("sgd", n_experts=3, seed=1)
    with pytest.raises(ValueError, match="one of bayesian"):
        from_json({"optimizer": "sgd"})


def test_a_start_of_the_wrong_length_is_refused() -> None:
    """A start needs one coefficient per expert."""
    with pytest.raises(ValueError, match="starts must be positions of 3 coefficients"):
        make("cma_es", n_experts=3, seed=1, starts=[(1.0, 0.0)])
    with pytest.raises(ValueError, match="starts must be positions of 3 or 6 coefficients"):
        make("cma_es", n_experts=3, seed=1, groups=2, starts=[(1.0, 0.0)])


def test_a_particles_numbers_are_its_own() -> None:
    """Row i of a generation's draws is the stream of particle i: the blocks of that key from i * w on, whatever N is."""
    drawn = uniforms(seed=2**70 + 1, generation=3, purpose="move", particles=20, blocks=2)
    np.testing.assert_array_equal(drawn[:7], uniforms(2**70 + 1, 3, "move", 7, 2))
    for particle in (0, 1, 19):
        key = np.random.SeedSequence([2**70 + 1, 3], spawn_key=(2,)).generate_state(2, np.uint64)
        alone = np.random.Generator(np.random.Philox(key=key).advance(2 * particle))
        np.testing.assert_array_equal(drawn[particle], alone.random((2, 4)))


def test_draws_differ_by_seed_generation_purpose_and_particle() -> None:
    """No two streams are the same one."""
    rows = [
        tuple(row.ravel())
        for seed in (1, 2)
        for generation in (1, 2)
        for purpose in ("child", "velocity", "move", "dropout")
        for row in uniforms(seed, generation, purpose, 5)
    ]
    assert len(set(rows)) == len(rows)


def test_heavy_libraries_wait_until_they_are_needed() -> None:
    """Importing the searches imports neither nevergrad nor scikit-learn: the control queue stays light."""
    code = "import sys, swarm_worker.search; print(sorted({'nevergrad', 'sklearn', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_one_lost_evaluation_ends_no_search_of_one_at_a_time() -> None:
    """A generation of one that fails goes by; three in a row end the search with the reason."""
    search = make("random_search", n_experts=2, seed=1, population=1, max_generations=9)
    search.tell([Outcome.of(move, 0.5) for move in search.ask()])
    for utility in (None, None, 0.6, None, None):
        search.tell([Outcome.of(move, utility, "killed") for move in search.ask()])
        search = from_json(search.to_json())
        assert search.should_stop is None
    search.tell([Outcome.of(move, None, "killed") for move in search.ask()])
    assert search.should_stop == "every evaluation of generation 6 failed: killed"
