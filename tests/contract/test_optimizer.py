"""The contract of ``swarm_worker.search.optimizer.Optimizer``, for every search in the table."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from swarm_worker.search import OPTIMIZERS, Move, Outcome, from_json, make
from swarm_worker.search.generations import Generations

N_EXPERTS = 4
GOAL = np.array([0.7, 0.5, -0.2, 0.0])


def utility(coefficients: tuple[float, ...]) -> float:
    """One smooth hill, its top at ``GOAL``."""
    return float(np.exp(-((np.array(coefficients) - GOAL) ** 2).sum()))


def evaluate(move: Move) -> Outcome:
    return Outcome.of(move, utility(move.coefficients))


def evaluate_or_fail(move: Move) -> Outcome:
    """Every third particle fails, whatever its position."""
    if (move.particle + move.generation) % 3 == 0:
        return Outcome.of(move, None, "out of memory")
    return evaluate(move)


# Small where that costs nothing of the claim. One at a time, NGOpt's choice has no chance in it: no seed could decide.
OPTIONS: dict[str, dict[str, Any]] = {"bayesian": {"population": 4, "draws": 60}, "lorahub": {"population": 4}}


def new(name: str, seed: int = 1, **options: Any) -> Generations:
    return make(name, seed=seed, **{"n_experts": N_EXPERTS, "max_generations": 6} | OPTIONS.get(name, {}) | options)


def run(search: Generations, evaluation: Callable[[Move], Outcome] = evaluate) -> Generations:
    while search.should_stop is None:
        search.tell([evaluation(move) for move in search.ask()])
    return search


pytestmark = pytest.mark.parametrize("name", sorted(OPTIMIZERS))


def test_generation_0_scores_the_starts(name: str) -> None:
    """Each expert alone and the uniform soup are scored first, and cost budget like everything else."""
    search = new(name)
    asked = [move.coefficients for move in search.ask()]
    for expert in range(N_EXPERTS):
        assert asked[expert] == tuple(float(i == expert) for i in range(N_EXPERTS))
    assert (0.25,) * 4 in asked
    search.tell([evaluate(move) for move in search.ask()])
    assert search.evaluations == len(asked)


def test_the_soup_costs_nothing_where_it_is_not_scored(name: str) -> None:
    """Without ``score_soup`` generation 0 is one evaluation shorter, and the soup is not in it."""
    without, with_soup = new(name, score_soup=False).ask(), new(name).ask()
    assert (0.25,) * 4 not in [move.coefficients for move in without]
    assert len(without) == len(with_soup) - (name != "model_swarms")  # a swarm fills its place with a child


def test_layer_groups_have_coefficients_of_their_own(name: str) -> None:
    """A position of G groups has G * n numbers, group by group; starts are the same in every group, moves are not."""
    start, whole = (0.4, 0.3, 0.2, 0.1), (0.1, 0.2, 0.3, 0.4, 0.9, 0.1, 0.0, 0.0)
    search = new(name, groups=2, starts=[start, whole], max_generations=2)
    asked = [move.coefficients for move in search.ask()]
    assert asked[1] == (0.0, 1.0, 0.0, 0.0) * 2
    assert {(0.25,) * 8, start * 2, whole} <= set(asked)
    goal = np.concatenate([GOAL, GOAL[::-1]])

    def grouped(move: Move) -> Outcome:
        return Outcome.of(move, float(np.exp(-((np.array(move.coefficients) - goal) ** 2).sum())))

    halves = []
    while search.should_stop is None:
        halves += [np.reshape(move.coefficients, (2, 4)) for move in search.ask()]
        search.tell([grouped(move) for move in search.ask()])
        search = from_json(json.loads(json.dumps(search.to_json())))
    assert any(np.abs(one - other).max() > 0.05 for one, other in halves[len(asked) :])
    assert search.dimensions == 8


def test_a_state_of_before_layer_groups_is_one_group(name: str) -> None:
    """What an earlier release saved, without groups, dropout and failures in a row, goes on."""
    search = new(name)
    search.tell([evaluate(move) for move in search.ask()])
    saved = search.to_json()
    for key in ("groups", "dropped", "failures_in_a_row"):
        del saved[key]
    assert from_json(saved).to_json() == search.to_json()


def test_extra_starts_are_scored_too(name: str) -> None:
    """A position from an earlier run can be handed in; if nothing beats it, it is the best."""
    goal = (0.7, 0.5, -0.2, 0.0)
    search = new(name, starts=[goal], max_generations=2)
    assert goal in [move.coefficients for move in search.ask()]
    assert run(search).best.coefficients == goal


def test_asking_repeats_its_answer(name: str) -> None:
    """Asking changes nothing; a told particle is not asked for again, and the others keep their numbers."""
    search = new(name)
    moves = search.ask()
    assert search.ask() == moves
    search.tell([evaluate(moves[1])])
    assert search.ask() == [moves[0], *moves[2:]]


@pytest.mark.parametrize("evaluation", [evaluate, evaluate_or_fail])
def test_order_repetition_and_grouping_change_nothing(name: str, evaluation: Callable[[Move], Outcome]) -> None:
    """Outcomes shuffled, told one by one, twice, and again a generation later end in the very same state."""
    expected = run(new(name), evaluation).to_json()

    search, chance, earlier = new(name), random.Random(3), []
    while search.should_stop is None:
        outcomes = [evaluation(move) for move in search.ask()]
        chance.shuffle(outcomes)
        for outcome in outcomes:
            search.tell([outcome, *chance.sample(earlier, k=min(2, len(earlier)))])
            search.tell([outcome])
        earlier = outcomes

    assert search.to_json() == expected


@pytest.mark.parametrize("evaluation", [evaluate, evaluate_or_fail])
def test_going_through_json_changes_nothing(name: str, evaluation: Callable[[Move], Outcome]) -> None:
    """A search that is saved and restored after every single outcome ends in the very same state."""
    expected = run(new(name), evaluation).to_json()

    search = new(name)
    while search.should_stop is None:
        for move in search.ask():
            search = from_json(json.loads(json.dumps(search.to_json())))
            search.tell([evaluation(move)])

    assert search.to_json() == expected


def test_the_seed_decides(name: str) -> None:
    """The same seed gives the same search, another seed another one."""
    assert run(new(name, seed=1)).to_json() == run(new(name, seed=1)).to_json()
    assert run(new(name, seed=1)).best != run(new(name, seed=2)).best


def test_float_noise_turns_nothing(name: str) -> None:
    """Scores that differ by less than half a millionth lead to the same positions."""

    def noisy(move: Move) -> Outcome:
        return Outcome.of(move, round(utility(move.coefficients), 6) + 3e-7 * (-1) ** move.particle)

    def quiet(move: Move) -> Outcome:
        return Outcome.of(move, round(utility(move.coefficients), 6))

    assert run(new(name), noisy).to_json() == run(new(name), quiet).to_json()


def test_ties_go_to_the_lowest_particle(name: str) -> None:
    """Where everything scores the same, the best is the first expert."""
    search = run(new(name), lambda move: Outcome.of(move, 0.5))
    assert search.best.coefficients == (1.0, 0.0, 0.0, 0.0)
    assert search.best.generation == 0


def test_a_score_beats_a_failure_and_the_lower_score_stands(name: str) -> None:
    """Two reports about one move lead to one result, whichever came first."""
    states = []
    for reports in ([(None, "lost"), (0.4, None), (0.3, None)], [(0.3, None), (0.4, None), (None, "lost")]):
        search = new(name)
        first, *_ = search.ask()
        search.tell([Outcome(0, 0, value, error) for value, error in reports])
        states.append(search.to_json())
        assert first not in search.ask()
    assert states[0] == states[1]
    assert states[0]["outcomes"] == [{"generation": 0, "particle": 0, "utility": 0.3, "error": None}]


def test_it_stops_when_nothing_can_be_scored(name: str) -> None:
    """A generation without a single score ends the search with the workers' reason, and there is no best."""
    search = run(new(name), lambda move: Outcome.of(move, None, "the base model is gone"))
    assert search.should_stop == "every evaluation of generation 0 failed: the base model is gone"
    assert search.best is None
    assert search.ask() == []


def test_it_stops_within_its_budget(name: str) -> None:
    """No generation begins that would exceed max_evaluations."""
    search = run(new(name, max_evaluations=60, max_generations=60))
    assert 20 <= search.evaluations <= 60
    assert "60 evaluations" in search.should_stop


def test_it_stops_when_nothing_gets_better(name: str) -> None:
    """Patience counts the generations without a better best."""
    search = run(new(name, patience=3), lambda move: Outcome.of(move, 0.5))
    assert search.should_stop == "3 generations without a better best"
    assert search.generation == 3


def test_a_move_that_was_never_asked_for_is_refused(name: str) -> None:
    """A wrong particle or a generation from the future is the caller's mistake, and says so."""
    for wrong in (Outcome(0, 99, 0.5), Outcome(7, 0, 0.5), Outcome(0, -1, 0.5)):
        with pytest.raises(ValueError, match="particle"):
            new(name).tell([wrong])


def test_it_climbs(name: str) -> None:
    """On one smooth hill every search ends above its starts."""
    search = new(name)
    search.tell([evaluate(move) for move in search.ask()])
    best_start = search.best.utility
    assert run(search).best.utility > best_start


def test_unknown_options_name_the_choices(name: str) -> None:
    """A mistyped or mistaken option says which there are."""
    with pytest.raises(ValueError, match=f"{name} has no option 'sigmma'; it has .*max_generations"):
        make(name, n_experts=3, seed=1, sigmma=1)
    with pytest.raises(ValueError, match="max_generations"):
        make(name, n_experts=3, seed=1, max_generations=-1)
    with pytest.raises(ValueError, match="wrong type"):
        make(name, n_experts=3, seed=1, max_generations="many")
