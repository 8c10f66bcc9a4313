"""The test that a challenger is worse by no more than a tolerance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm_worker.no_loss import chance_of_harmless


@pytest.mark.parametrize("n", [30, 100, 300])
@pytest.mark.parametrize(("tolerance", "differing"), [(0.01, 0.01), (0.05, 0.05), (0.05, 0.3), (0.2, 0.5)])
def test_a_version_that_is_worse_by_as_much_rarely_looks_harmless(n: int, tolerance: float, differing: float) -> None:
    """Of 1,000 such versions, few items differing or many, at most 10% are given a chance below 10%."""
    rng = np.random.default_rng(5)
    chances = [(differing - tolerance) / 2, 1 - differing, (differing + tolerance) / 2]
    told = [rng.choice([1.0, 0.0, -1.0], size=n, p=chances) for _ in range(1000)]
    assert sum(chance_of_harmless(one, tolerance) <= 0.1 for one in told) <= 100


def test_no_difference_is_no_certainty() -> None:
    """Of 100 answers none differs: a version that loses one in a hundred is seen so in 37 of 100 tries, and the chance says no
    less. Of 800 none loses 2 points by any chance worth speaking of."""
    assert 0.99**100 < chance_of_harmless([0.0] * 100, 0.01) <= 1.0
    assert chance_of_harmless([0.0] * 800, 0.02) < 1e-4


def test_what_is_equal_is_shown_to_be_no_worse_with_enough_items() -> None:
    """One answer in twenty-five differs, either way: 800 items tell that it is not 5 points worse, 30 do not."""
    rng = np.random.default_rng(1)
    told = rng.choice([1.0, 0.0, -1.0], size=800, p=[0.02, 0.96, 0.02])
    assert chance_of_harmless(told, 0.05) < 0.001
    assert chance_of_harmless(told[:30], 0.05) > 0.1


@settings(deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=60), st.floats(0.001, 1), st.randoms(use_true_random=False))
def test_it_is_a_chance_that_knows_no_order_and_falls_with_gains(told: list[float], tolerance: float, rng) -> None:  # type: ignore[no-untyped-def]
    """Between 0 and 1; the same for the same differences in any order; items that gain never make it greater."""
    chance = chance_of_harmless(told, tolerance)
    assert 0 <= chance <= 1
    mixed = list(told)
    rng.shuffle(mixed)
    assert chance_of_harmless(mixed, tolerance) == pytest.approx(chance)
    assert chance_of_harmless([*told, 1.0], tolerance) <= chance + 1e-12


@pytest.mark.parametrize(
    ("told", "tolerance"), [([1.5], 0.1), ([float("nan")], 0.1), ([0.0], 0.0), ([0.0], 1.1), ([-1.01], 0.1)]
)
def test_what_it_cannot_tell_it_refuses(told: list[float], tolerance: float) -> None:
    """Differences of no scores in [0, 1], and tolerances that are none."""
    with pytest.raises(ValueError, match="tolerance"):
        chance_of_harmless(told, tolerance)
