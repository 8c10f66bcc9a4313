"""The gate where differences are lopsided: what passes by chance stays what is allowed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from registry.gate_policy import GatePolicy
from swarm_worker.gate import decide
from swarm_worker.sign_flip import chance_of_gain
from swarm_worker.skew import chance_of_mean


def lopsided(rng: np.random.Generator, size: tuple[int, int], way: int) -> np.ndarray:
    """Wins that are many and small, losses that are few and large (``way`` 1; -1: the other way round), of mean 0."""
    found = np.where(rng.random(size) < 0.5, rng.normal(0.02, 0.02, size), -rng.exponential(0.05, size)) + 0.015
    return way * found


@pytest.mark.parametrize("way", [1, -1])
def test_equal_versions_pass_as_often_as_is_allowed(way: int) -> None:
    """4,000 comparisons of 100 items: about one in forty; the sign-flip test passes more of those that win often and a little."""
    found = lopsided(np.random.default_rng(3), (4000, 100), way)
    found -= found.mean()
    by_skew = np.mean([chance_of_mean(list(one)) <= 0.025 for one in found])
    assert abs(by_skew - 0.025) < 0.01
    by_sign = np.mean([chance_of_gain(list(one)) <= 0.025 for one in found[:400]])
    assert (by_sign > 0.035) == (way == 1)


def test_without_skew_it_is_students() -> None:
    """Of a sample whose two sides are alike the two tests are one."""
    half = np.random.default_rng(4).exponential(1, 40)
    told = np.concatenate([half, -half]) + 0.3
    assert chance_of_mean(list(told)) == pytest.approx(ttest_1samp(told, 0, alternative="greater").pvalue, rel=1e-9)
    assert chance_of_mean([0.0] * 40) == chance_of_mean([0.2] * 40) == 1.0


def test_the_gate_asks_both_where_differences_are_of_several_sizes() -> None:
    """Many small wins and three large losses: the tail counts; of wins and losses of one size the
    signs decide alone, and say exactly what they said."""
    before = [0.5] * 100
    after = [0.51] * 97 + [0.35, 0.3, 0.33]
    difference = [b - a for a, b in zip(before, after, strict=True)]
    decision = decide(before, after, seed=0, gate=GatePolicy())
    assert decision.p == pytest.approx(chance_of_mean(difference))
    assert decision.p > 1.5 * chance_of_gain(difference)
    right = [1.0] * 70 + [0.0] * 30
    exact = decide([0.0] * 20 + [1.0] * 80, right, seed=0, gate=GatePolicy())
    assert exact.p == chance_of_gain([b - a for a, b in zip([0.0] * 20 + [1.0] * 80, right, strict=True)])
