"""Moves, outcomes and the table of searches."""

from __future__ import annotations

import math

import pytest

from swarm_worker.search import Move, Outcome, from_json, make


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
    with pytest.raises(ValueError, match="one of cma_es, model_swarms, random_search, not 'sgd'"):
        make("sgd", n_experts=3, seed=1)
    with pytest.raises(ValueError, match="one of cma_es"):
        from_json({"optimizer": "sgd"})


def test_a_start_of_the_wrong_length_is_refused() -> None:
    """A start needs one coefficient per expert."""
    with pytest.raises(ValueError, match="starts must be positions of 3 coefficients"):
        make("cma_es", n_experts=3, seed=1, starts=[(1.0, 0.0)])
