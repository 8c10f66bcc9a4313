"""The rules of Model Swarms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm_worker.search import Move, Outcome, from_json, make
from swarm_worker.search.draws import uniforms

OUTCOMES = st.lists(st.one_of(st.none(), st.floats(0, 1)), min_size=1, max_size=7)


def told(search, utilities: list[float | None]):
    """Tell a whole generation, ``utilities`` repeated over its particles."""
    search.tell([Outcome.of(move, utilities[move.particle % len(utilities)], "failed") for move in search.ask()])
    return search


@settings(deadline=None, max_examples=40)
@given(
    n_experts=st.integers(2, 8),
    groups=st.integers(1, 3),
    seed=st.integers(0, 2**40),
    preset=st.sampled_from(["paper", "reference", "shoal"]),
    rules=st.fixed_dictionaries(
        {
            "dropout_n": st.sampled_from([0.0, 0.3]),
            "dropout_k": st.sampled_from([0.0, 0.3]),
            "start_velocity": st.sampled_from(["random", "zero", "best"]),
            "randomness": st.booleans(),
        }
    ),
    rounds=st.lists(OUTCOMES, min_size=1, max_size=12),
)
def test_coefficients_sum_to_1_and_velocities_to_0(
    n_experts: int, groups: int, seed: int, preset: str, rules: dict, rounds: list
) -> None:
    """Every particle, at every step and in every layer group, whatever the rules, scores and failures, is in the affine
    hull of the experts."""
    search = make("model_swarms", n_experts=n_experts, groups=groups, seed=seed, preset=preset, **rules)
    for utilities in rounds:
        told(search, utilities)
        state = search.to_json()["state"]
        for field, total in (("positions", 1.0), ("velocities", 0.0)):
            grouped = np.reshape(state[field], (-1, groups, n_experts))
            np.testing.assert_allclose(grouped.sum(axis=2), total, atol=1e-9)


def hill(coefficients) -> float:
    """A smooth utility without equals, to be asked in any order of the experts."""
    return float(np.exp(-((np.array(coefficients) - np.linspace(-0.3, 0.9, len(coefficients))) ** 2).sum()))


@settings(deadline=None, max_examples=20)
@given(
    order=st.permutations(range(5)),
    seed=st.integers(0, 2**40),
    preset=st.sampled_from(["paper", "reference", "shoal"]),
    dropout_n=st.sampled_from([0.0, 0.3]),
)
def test_experts_in_another_order_give_the_coefficients_in_that_order(
    order: list[int], seed: int, preset: str, dropout_n: float
) -> None:
    """Draws belong to particles, so a swarm that starts from the same positions, its coefficients written in another
    order of the experts, goes through the same positions in that order, to the end."""
    search = make("model_swarms", n_experts=5, seed=seed, preset=preset, dropout_n=dropout_n, max_generations=15)
    value = search.to_json()
    for where in (value["state"]["positions"], value["state"]["velocities"], value["state"]["personal_best"]):
        where[:] = [[row[i] for i in order] for row in where]
    value["positions"] = [[row[i] for i in order] for row in value["positions"]]
    other = from_json(value)
    while search.should_stop is None:
        moves, others = search.ask(), other.ask()
        for move, permuted in zip(moves, others, strict=True):
            np.testing.assert_allclose(np.array(move.coefficients)[order], permuted.coefficients, atol=1e-9)
        outcomes = [Outcome.of(move, hill(move.coefficients)) for move in moves]
        search.tell(outcomes)
        other.tell(outcomes)
    assert other.should_stop == search.should_stop


@settings(deadline=None, max_examples=20)
@given(order=st.permutations(range(5)))
def test_without_chance_the_order_of_the_experts_does_not_matter(order: list[int]) -> None:
    """No randomness, no children, no first velocity: experts named in another order find the same best mix."""
    rules = {"randomness": False, "crossover": False, "start_velocity": "zero", "preset": "paper"}

    def best(order: list[int]) -> dict[int, float]:
        search = make("model_swarms", n_experts=5, seed=1, **rules)
        while search.should_stop is None:
            by_expert = [(move, np.array(move.coefficients)[np.argsort(order)]) for move in search.ask()]
            search.tell([Outcome.of(move, hill(coefficients)) for move, coefficients in by_expert])
        return {expert: search.best.coefficients[column] for column, expert in enumerate(order)}

    assert best(order) == pytest.approx(best(list(range(5))), abs=1e-9)


def test_children_lie_between_two_experts() -> None:
    """Crossover (paper): a child is a mix of two experts with weights in (0, 1)."""
    search = make("model_swarms", n_experts=5, seed=2, preset="paper")
    children = [move.coefficients for move in search.ask()][5:20]
    assert len(children) == 15
    for child in children:
        mixed = [c for c in child if c != 0]
        assert len(mixed) == 2
        assert all(0 < c < 1 for c in mixed)


def test_paper_scores_twenty_particles_and_nothing_else() -> None:
    """The soup costs the paper no evaluation; where it is asked for, it is scored and never moves."""
    assert len(make("model_swarms", n_experts=4, seed=1, preset="paper").ask()) == 20
    search = make("model_swarms", n_experts=4, seed=1, preset="paper", score_soup=True)
    assert len(search.ask()) == 21
    told(search, [0.5])
    assert len(search.ask()) == 20


def test_one_move_is_the_equation() -> None:
    """With fixed outcomes, generation 1 is equation (1) and (2) of the paper, number by number."""
    options = {"inertia": 0.2, "cognitive": 0.3, "social": 0.4, "repel": 0.1, "step": 0.7}
    search = make("model_swarms", n_experts=3, seed=9, preset="paper", particles=4, **options)
    before = search.to_json()["state"]
    utilities = [0.1, 0.6, 0.3, 0.4]
    search.tell([Outcome.of(move, utilities[move.particle]) for move in search.ask()])

    x, v = np.array(before["positions"]), np.array(before["velocities"])
    best, worst = x[1], x[0]
    for move in search.ask():
        r = uniforms(9, 1, "move", 4)[move.particle, 0]
        a = r * [0.2, 0.3, 0.4, 0.1]
        a /= a.sum()
        here = x[move.particle]  # its own personal best, so that term is zero
        velocity = a[0] * v[move.particle] + a[2] * (best - here) + a[3] * (here - worst)
        np.testing.assert_allclose(move.coefficients, here + 0.7 * velocity, atol=1e-12)


def test_a_stuck_particle_goes_back_to_its_best_at_rest_then_waits() -> None:
    """Restart after 5 generations without a better personal best, and not again before another 5."""
    search = make("model_swarms", n_experts=3, seed=4, particles=4, patience=None, cognitive=0.0, social=0.0, repel=0.0)
    restarted = []
    for generation in range(12):
        told(search, [1.0 if generation == 0 else 0.5])
        state = search.to_json()["state"]
        restarted.append(state["positions"] == state["personal_best"])
    # With inertia alone, a particle that restarts rests at its personal best from then on.
    assert restarted == [False] * 5 + [True] * 7
    assert max(search.to_json()["state"]["without_better"]) <= 5


def test_the_step_decays_to_its_floor() -> None:
    """step x 0.95 a generation, never below the floor."""
    search = make("model_swarms", n_experts=3, seed=4, patience=None, step=0.2, step_floor=0.15, particles=3)
    steps = [told(search, [0.5]).to_json()["state"]["step"] for _ in range(8)]
    assert steps[0] == pytest.approx(0.19)
    assert steps[-1] == 0.15


def test_worst_ever_and_worst_now() -> None:
    """The paper repels from the worst position of the whole search; the default from that of the last generation."""
    for worst, expected in (("ever", 0.1), ("now", 0.3)):
        search = make("model_swarms", n_experts=3, seed=4, worst=worst, particles=4)
        told(search, [0.1, 0.2])
        told(search, [0.3, 0.4])
        assert search.to_json()["state"]["global_worst"][1] == expected


def test_a_particle_without_any_score_is_not_pulled_to_a_best_of_its_own() -> None:
    """A failed particle follows the others, and nothing draws it back to where it failed; once it has a score, that is
    its personal best."""
    search = make("model_swarms", n_experts=3, seed=4, particles=4, inertia=0.0, repel=0.0, step_decay=1.0)
    for _ in range(8):  # longer than the restart's patience
        search.tell([Outcome.of(m, None if m.particle == 2 else 0.5, "killed") for m in search.ask()])
    assert search.to_json()["state"]["personal_utility"][2] is None
    np.testing.assert_allclose(search.ask()[2].coefficients, (1, 0, 0), atol=0.02)  # the global best: its only pull
    moved = search.ask()[2]
    search.tell([Outcome.of(m, 0.2) for m in search.ask()])
    assert search.to_json()["state"]["personal_best"][2] == list(moved.coefficients)


def test_a_start_outside_the_swarms_hull_is_scored_but_does_not_move() -> None:
    """A champion found by another search may have another sum: it is scored, and no particle leaves the hull."""
    search = make("model_swarms", n_experts=2, seed=1, starts=[(0.5, 0.1), (0.4, 0.6)])
    asked = [move.coefficients for move in search.ask()]
    assert len(asked) == 21
    assert asked[-1] == (0.5, 0.1)
    assert (0.4, 0.6) in asked[:4]
    told(search, [0.5])
    assert all(abs(sum(move.coefficients) - 1) < 1e-9 for move in search.ask())


def test_one_expert_spans_no_swarm() -> None:
    """A swarm of sum 1 needs two experts; an unknown preset names the choices."""
    with pytest.raises(ValueError, match="n_experts"):
        make("model_swarms", n_experts=1, seed=1)
    with pytest.raises(ValueError, match="one of paper, reference, shoal"):
        make("model_swarms", n_experts=2, seed=1, preset="authors")


def test_moves_are_small_messages() -> None:
    """A move is a few numbers, whatever the size of the model."""
    move = make("model_swarms", n_experts=10, seed=1).ask()[0]
    assert isinstance(move, Move)
    assert len(str(move.to_json())) < 400
