"""A loop that tests again and again: what the gate lets pass by chance, and what it costs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.gate_policy import GatePolicy
from swarm_worker.gate import allowed, decide, power
from swarm_worker.sign_flip import chance_of_gain

NONE = GatePolicy(correction="none")


def test_one_sided_luck_has_the_chance_that_a_coin_gives_it() -> None:
    """McNemar's exact test where answers are right or wrong; items that do not differ say nothing."""
    assert chance_of_gain([1.0] * 4 + [0.0] * 96) == pytest.approx(1 / 16)
    assert chance_of_gain([1.0] * 9 + [-1.0]) == pytest.approx(11 / 1024)
    assert chance_of_gain([1.0] * 40 + [0.0] * 10) == pytest.approx(2.0**-40)
    assert chance_of_gain([0.0] * 50) == chance_of_gain([]) == 1.0
    with pytest.raises(ValueError, match="finite"):
        chance_of_gain([float("nan")])


@settings(deadline=None)
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=10))
def test_it_is_the_share_of_all_choices_of_signs(steps: list[int]) -> None:
    """Against counting every one of the 2^n."""
    signs = np.array(np.meshgrid(*[[-1, 1]] * len(steps))).reshape(len(steps), -1)
    sums = np.abs(steps) @ signs
    expected = float((sums >= sum(steps)).mean())
    assert chance_of_gain([step / 4 for step in steps]) == pytest.approx(expected if any(steps) else 1.0)


def test_many_small_differences_are_told_on_a_grid_and_keep_their_rate() -> None:
    """Of 300 sets without a true gain about 5% are below 5%; where there are very many, the normal distribution agrees."""
    rng = np.random.default_rng(3)
    low = sum(chance_of_gain(rng.normal(0, 0.2, 40)) <= 0.05 for _ in range(300))
    assert 0.02 < low / 300 < 0.09
    many = rng.normal(0.015, 0.2, 1000)
    assert chance_of_gain(many) == pytest.approx(chance_of_gain([*many, 1e-9]), rel=0.05)


@settings(deadline=None)
@given(st.floats(0.5, 0.999), st.integers(1, 10_000))
def test_all_looks_together_spend_no_more_than_they_may(level: float, looks: int) -> None:
    """The sum over any number of looks stays below 1 - level, and every look has something left."""
    gate = GatePolicy(level=level)
    spent = sum(allowed(gate, look) for look in range(1, min(looks, 500) + 1))
    assert spent < 1 - level
    assert 0 < allowed(gate, looks) <= allowed(gate, 1)


def test_the_first_look_asks_what_the_interval_asks() -> None:
    """The correction costs the first look nothing: its allowance, 2.55%, is no less than the 95% interval's own tail, 2.5%."""
    assert allowed(GatePolicy(), 1) == pytest.approx(0.0255, abs=1e-4)
    assert allowed(NONE, 1) == allowed(NONE, 50) == pytest.approx(0.025)
    before = [float(i < 78) for i in range(150)]
    after = [float(i < 100) for i in range(150)]
    assert decide(before, after, seed=1).passed
    assert decide(before, after, seed=1, gate=NONE, look=50).passed


def test_a_later_look_asks_for_more_and_says_so() -> None:
    """A gain that the first look lets pass (6 better, none worse) is too little at the third."""
    before, after = [0.0] * 6 + [1.0] * 54, [1.0] * 60
    first, third = (decide(before, after, seed=1, look=look) for look in (1, 3))
    assert (first.passed, first.look, first.p) == (True, 1, pytest.approx(1 / 64))
    assert not third.passed
    assert third.reason.endswith(
        "not enough: by chance 0.016, and look 3 at a challenger of this champion allows 0.0037"
    )


def test_fifty_looks_without_anything_to_find_promote_at_most_as_often_as_said() -> None:
    """400 loops of 50 looks on feedback that grows, each look's items holding most of the last one's: at most 5% ever
    promote, where testing each look by itself promotes in more than half of the loops."""
    rng = np.random.default_rng(11)
    loops, looks = 400, 50
    wrong = {"spending": 0, "none": 0}
    for _ in range(loops):
        right = rng.random(60 + 20 * looks) < 0.55  # of the champion, item by item
        promoted: set[str] = set()
        for look in range(1, looks + 1):
            n = 60 + 20 * (look - 1)
            # A finalist that differs in a fifth of the answers, as often for the better as for the worse.
            flips = rng.random(n) < np.where(right[:n], 0.1 / 0.55, 0.1 / 0.45)
            mine = rng.random(n) < 0.5  # the half that confirms
            before = right[:n][mine].astype(float)
            after = (right[:n] ^ flips)[mine].astype(float)
            if chance_of_gain(after - before) > 0.026:
                continue  # no gate lets it pass, and a bootstrap is spared
            for gate in (GatePolicy(), NONE):
                if decide(before, after, seed=look, draws=1000, gate=gate, look=look).passed:
                    promoted.add(gate.correction)
        for name in promoted:
            wrong[name] += 1
    assert wrong["spending"] / loops <= 0.05
    assert wrong["none"] / loops > 0.4


def test_what_the_correction_costs_is_known() -> None:
    """10 points on 200 items, a quarter of which differ: 81% at the first look, 45% at the fifth; 400 items bring 85% back."""
    spread = 0.25**0.5
    at = [power(0.10, spread, n, alpha=allowed(GatePolicy(), look)) for n, look in ((200, 1), (200, 5), (400, 5))]
    assert at == pytest.approx([0.81, 0.45, 0.85], abs=0.01)
