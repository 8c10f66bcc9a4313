"""Every rule of Model Swarms that can be switched, and every quirk of the reference code, by the difference it makes."""

from __future__ import annotations

import numpy as np
import pytest

from swarm_worker.search import Outcome, from_json, make


def swarm(**options):
    return make("model_swarms", **{"n_experts": 4, "seed": 4, "particles": 6, "preset": "paper"} | options)


def tell(search, *utilities: float | None):
    """Tell a whole generation, ``utilities`` repeated over its particles."""
    search.tell([Outcome.of(m, utilities[m.particle % len(utilities)], "failed") for m in search.ask()])
    return search


def state(search) -> dict:
    return search.to_json()["state"]


def restarts(search, generations: int) -> list[int]:
    """The generations in which the last particle moved off its personal best, at scores that never get better."""
    seen = []
    tell(search, 0.9, 0.5, 0.6)
    for _ in range(generations):
        before, generation = state(search), search.generation
        after, step = state(tell(search, 0.1)), before["step"]
        came_from = np.array(after["positions"][-1]) - step * np.array(after["velocities"][-1])
        if np.allclose(came_from, after["personal_best"][-1], atol=1e-9):
            seen.append(generation + 1)
    return seen


# The start


def test_children_of_the_reference_extrapolate() -> None:
    """Reach 2: about half of the children lie beyond their parents; reach 1: none does."""
    beyond = {}
    for reach in (1.0, 2.0):
        search = swarm(particles=400, crossover_reach=reach)
        children = np.array([m.coefficients for m in search.ask()][4:])
        np.testing.assert_allclose(children.sum(axis=1), 1.0)
        beyond[reach] = (children.min(axis=1) < 0).mean()
    assert beyond[1.0] == 0
    assert 0.4 < beyond[2.0] < 0.6


def test_any_parents_may_be_children() -> None:
    """Parents "experts": a child mixes two; "any": later children have more ancestors."""
    for parents, most in (("experts", 2), ("any", 4)):
        search = swarm(particles=60, crossover_parents=parents)
        assert max(np.count_nonzero(m.coefficients) for m in search.ask()) == most


def test_without_crossover_only_the_experts_move() -> None:
    """The ablation "no crossover": ten particles of ten experts."""
    assert [m.coefficients for m in swarm(crossover=False).ask()] == [tuple(row) for row in np.eye(4).tolist()]


def test_start_velocities() -> None:
    """Random: towards another particle. Zero: at rest. Best: towards the best of the start, once that is known."""
    x = np.array(state(swarm())["positions"])
    for v, here in zip(np.array(state(swarm())["velocities"]), x, strict=True):
        assert any(np.allclose(here + v, other) and not np.allclose(here, other) for other in x)
    assert not np.any(state(swarm(start_velocity="zero"))["velocities"])

    search = swarm(start_velocity="best", cognitive=0.0, social=0.0, repel=0.0, step=1.0)  # inertia alone: x + v
    tell(search, 0.1, 0.1, 0.7, 0.1)
    np.testing.assert_allclose([m.coefficients for m in search.ask()], np.tile(x[2], (6, 1)), atol=1e-12)


# Moves


def test_without_randomness_no_seed_matters() -> None:
    """The ablation "weights fixed": r = 1, so that the same start makes the same moves, whatever the seed."""
    for randomness, same in ((False, True), (True, False)):
        ends = []
        for seed in (1, 2):
            search = swarm(seed=seed, randomness=randomness, crossover=False, start_velocity="zero")
            for _ in range(4):
                tell(search, 0.1, 0.4, 0.2, 0.3)
            ends.append(state(search)["positions"])
        assert (ends[0] == ends[1]) is same


@pytest.mark.parametrize("term", ["inertia", "cognitive", "social", "repel"])
def test_a_term_of_0_is_gone(term: str) -> None:
    """Each of the four terms can be taken out, and is felt when it is there."""
    positions = []
    for factor in (0.0, 0.4):
        search = swarm(**{term: factor})
        for scores in ((0.1, 0.4, 0.2, 0.3), (0.3, 0.2, 0.1, 0.05)):
            tell(search, *scores)
        positions.append(np.array(state(search)["positions"]))
    assert np.abs(positions[0] - positions[1]).max() > 1e-3


def test_without_the_repelling_term_the_worst_does_not_matter() -> None:
    """``repel=0``: which position was worst changes nothing."""
    moves = [tell(swarm(repel=0.0), *scores).ask() for scores in ((0.9, 0.1, 0.5, 0.5), (0.9, 0.5, 0.5, 0.1))]
    assert moves[0] == moves[1]


def test_the_paper_has_no_step_floor() -> None:
    """Paper: 0.95 ** k, on and on; the reference stops at 0.1."""
    for preset, expected in (("paper", 0.95**60), ("reference", 0.1)):
        search = swarm(preset=preset, patience=None, max_generations=100)
        for _ in range(60):
            tell(search, 0.5)
        assert state(search)["step"] == pytest.approx(expected)


def test_s2_the_all_time_worst_goes_stale() -> None:
    """Defect S2: "ever" repels from a bad start for the whole search; "now" from what is bad today."""
    for worst, stale in (("ever", True), ("now", False)):
        search = swarm(worst=worst)
        start = state(search)["positions"]
        tell(search, 0.01, 0.5, 0.6, 0.7)
        for _ in range(3):
            tell(search, 0.6, 0.5, 0.7, 0.8)
        assert (state(search)["global_worst"][0] == start[0]) is stale


@pytest.mark.parametrize(("tie", "particle"), [("first", 1), ("last", 5)])
def test_of_equally_bad_ones_the_reference_takes_the_last(tie: str, particle: int) -> None:
    """Ties of the global worst: the first particle, or (reference) the last; the best is always the first."""
    search = swarm(worst_tie=tie)
    start = state(search)["positions"]
    tell(search, 0.5, 0.1)
    assert state(search)["global_worst"] == [start[particle], 0.1]
    assert state(search)["global_best"] == [start[0], 0.5]


# Restart and patience


def test_s1_a_restart_is_not_sticky() -> None:
    """Defect S1: in the reference a stuck particle restarts in every generation; here it has its patience anew."""
    rules = {"patience": None, "restart_patience": 3, "max_generations": 99}
    assert restarts(swarm(**rules), 12) == [4, 7, 10, 13]
    assert restarts(swarm(sticky_restart=True, **rules), 12) == list(range(4, 14))


def test_the_reference_waits_six_generations_for_a_restart() -> None:
    """Its 0.67 * 10 history entries, the best's among them, are 6 generations without a better one; the paper says 5."""
    rules = {"patience": None, "max_generations": 99}
    assert restarts(swarm(preset="reference", **rules), 9) == [7, 8, 9, 10]
    assert restarts(swarm(preset="paper", **rules), 9) == [6]


def test_restart_can_be_switched_off() -> None:
    """``restart_patience=None``: nobody goes back."""
    assert restarts(swarm(restart_patience=None, patience=None, max_generations=99), 12) == []


def test_patience_of_the_reference_is_one_short() -> None:
    """Its ten entries of history include the best's own, so 9 generations without a better one end it; but 10 where the
    start stays best. The paper's c is 10 in both."""
    for quirk, better_at, end in ((False, 3, 13), (True, 3, 12), (False, 0, 10), (True, 0, 10)):
        search = swarm(patience_counts_best=quirk)
        while search.should_stop is None:
            tell(search, 0.5 if search.generation == better_at else 0.1)
        assert search.generation == end
        assert search.should_stop.startswith("10 generations without a better best")


# Dropout


def test_dropout_n_leaves_particles_unscored_and_unpaid() -> None:
    """About that share of the particles is not asked for; they move all the same, and cost no evaluation."""
    search = swarm(particles=40, dropout_n=0.25, patience=None)
    assert len(search.ask()) == 40  # generation 0 is scored whole
    asked = 0
    tell(search, 0.5, 0.6)
    for _ in range(20):
        before, moves = np.array(state(search)["positions"]), search.ask()
        asked += len(moves)
        dropped = sorted(set(range(40)) - {m.particle for m in moves})
        if dropped:
            with pytest.raises(ValueError, match="to score"):
                search.tell([Outcome(search.generation, dropped[0], 0.5)])
        tell(search, 0.5, 0.4)
        assert (np.abs(np.array(state(search)["positions"]) - before).max(axis=1) > 0).all()
    assert 0.65 < asked / 800 < 0.85
    assert search.evaluations == 40 + asked


def test_dropout_k_passes_generations_by() -> None:
    """About that share of the generations is not asked for; the step decays in them too, and K counts them."""
    search = swarm(dropout_k=0.5, patience=None, max_generations=60)
    seen = []
    while search.should_stop is None:
        seen.append(search.generation)
        tell(search, 0.5)
        search = from_json(search.to_json())
    assert search.should_stop == "all 60 generations are done"
    assert search.generation == 60
    assert 18 < len(seen) < 42
    assert search.evaluations == 6 * len(seen)
    assert state(search)["step"] == pytest.approx(0.95**60)


def test_s5_what_was_not_scored_spends_no_patience() -> None:
    """Defect S5: in the reference a particle that dropout left out still loses patience, and so does the search."""
    scored, ends = {}, {}
    for quirk in (False, True):
        search = swarm(dropout_k=0.5, dropout_counts=quirk, restart_patience=None, max_generations=500)
        scored[quirk] = 0
        while search.should_stop is None:
            tell(search, 0.5)
            scored[quirk] += 1
        ends[quirk] = search.generation
    assert scored[False] == 11  # the start, then ten without a better one
    assert ends[True] == 10
    assert scored[True] < 11

    for quirk in (False, True):
        rules = {"dropout_counts": quirk, "restart_patience": None, "patience": None}
        search = tell(swarm(particles=20, dropout_n=0.5, **rules), 0.5)
        missed = np.zeros(20, dtype=int)
        for _ in range(12):
            missed += [p not in {m.particle for m in search.ask()} for p in range(20)]
            tell(search, 0.1)
        lost = state(search)["without_better"]
        assert missed.min() > 0
        assert lost == ([12] * 20 if quirk else (12 - missed).tolist())


# Presets and mistakes


def test_the_presets_are_what_they_say() -> None:
    """Paper: as published. Reference: that, and each quirk of the code. Shoal: none of them."""
    paper, reference, shoal = (swarm(preset=p, particles=20).options for p in ("paper", "reference", "shoal"))
    assert (paper.max_generations, paper.patience, paper.restart_patience) == (50, 10, 5)
    assert (paper.crossover_reach, paper.step_decay, paper.step_floor) == (1.0, 0.95, 0.0)
    assert (paper.worst, paper.score_soup, paper.start_velocity) == ("ever", False, "random")
    assert (reference.crossover_reach, reference.crossover_parents) == (2.0, "any")
    assert (reference.step_floor, reference.max_generations) == (0.1, 200)
    for quirk in ("sticky_restart", "patience_counts_best", "dropout_counts"):
        assert getattr(reference, quirk)
        assert not getattr(paper, quirk)
        assert not getattr(shoal, quirk)
    assert (shoal.worst, shoal.crossover_reach, shoal.worst_tie) == ("now", 1.0, "first")


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("start_velocity", "slow", "'random', 'zero', 'best'"),
        ("crossover_parents", "all", "'experts', 'any'"),
        ("worst", "first", "'ever', 'now'"),
        ("worst_tie", "any", "'first', 'last'"),
        ("dropout_k", 1.0, r"in \[0, 1\)"),
        ("dropout_n", -0.1, r"in \[0, 1\)"),
        ("randomness", "off", "true or false"),
        ("score_soup", 1, "true or false"),
        ("restart_patience", 0, "1 or more, or None"),
    ],
)
def test_a_mistaken_rule_names_what_is_allowed(field: str, value: object, allowed: str) -> None:
    """The error says which option, which value, and what it may be."""
    with pytest.raises(ValueError, match=f"{field} must be .*{allowed}"):
        swarm(**{field: value})
