"""The sequential test: how often it is wrong however often it is looked at, and that strata keep a drift out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm_worker.sequential import Sums, horizon_bound, mixture_bound, walk

LEVEL = 0.05
RUNS = 1000


def crossed(ours: float, theirs: float, *, share: float, margin: float = 0.0, bound: str = "horizon") -> float:
    """The share of trials in which the walk is above its boundary at any of 100 looks."""
    rng = np.random.default_rng(3)
    looks, a_look, horizon = 100, 20, 500.0
    ns = rng.binomial(a_look, share, size=(RUNS, looks))
    totals = np.cumsum(rng.binomial(ns, ours), axis=1)
    others = np.cumsum(rng.binomial(a_look - ns, theirs), axis=1)
    ns = np.cumsum(ns, axis=1)
    times = 0
    for n, total, other in zip(ns, totals, others, strict=True):
        for look in range(looks):
            stratum = Sums(n[look], total[look]), Sums(a_look * (look + 1) - n[look], other[look])
            at = walk([stratum], margin=margin)
            if at is None or stratum[0].n < 20:
                continue
            high = mixture_bound(LEVEL, at.information, 100) if bound == "mixture" else horizon_bound(LEVEL, horizon)
            if at.information <= horizon and at.place >= high:
                times += 1
                break
    return times / RUNS


@pytest.mark.parametrize(("rate", "share"), [(0.5, 0.5), (0.5, 0.05), (0.05, 0.5), (0.95, 0.05), (0.9, 0.25)])
def test_equal_versions_are_rarely_told_apart(rate: float, share: float) -> None:
    """Looked at a hundred times, the boundary with a horizon is crossed with about its level at most, also by rare ratings."""
    assert crossed(rate, rate, share=share) <= LEVEL + 2 * math.sqrt(LEVEL * (1 - LEVEL) / RUNS)


@pytest.mark.parametrize(("rate", "share"), [(0.01, 0.05), (0.01, 0.5), (0.1, 0.25)])
def test_errors_at_the_margin_are_rarely_blamed(rate: float, share: float) -> None:
    """A version that fails exactly as much more often as it may crosses the boundary without a horizon with its level at most."""
    assert crossed(rate + 0.02, rate, share=share, margin=0.02, bound="mixture") <= LEVEL


def test_a_real_difference_is_found() -> None:
    """Ten points in ratings on even shares, within 2,000 ratings: more than nine times in ten by either boundary."""
    assert crossed(0.6, 0.5, share=0.5) > 0.95
    assert crossed(0.6, 0.5, share=0.5, bound="mixture") > 0.9


def test_a_drift_that_meets_a_rising_share_is_no_difference() -> None:
    """Users became happier just when the share was raised: pooled sums would call the version on trial better; strata do not."""
    early, late = (Sums(50, 20), Sums(950, 380)), (Sums(500, 400), Sums(500, 400))
    apart = walk([early, late])
    pooled = walk([(Sums(550, 420), Sums(1450, 780))])
    assert apart is not None
    assert pooled is not None
    assert apart.difference == pytest.approx(0.0)
    assert pooled.z > 4


sides = st.tuples(st.integers(0, 300), st.floats(0, 1), st.floats(0, 1)).map(
    lambda told: Sums(told[0], told[0] * told[1], told[0] * told[1] * max(told[1], told[2]))
)


@given(st.lists(st.tuples(sides, sides), max_size=4), st.floats(-0.5, 0.5))
def test_a_walk_is_finite_and_turns_with_its_sides(strata: list[tuple[Sums, Sums]], margin: float) -> None:
    """Whatever was counted, also nothing: no NaN, and the other side's walk is the same with the other sign."""
    ours = walk(strata, margin=margin)
    theirs = walk([(champion, version) for version, champion in strata], margin=-margin)
    assert (ours is None) == (theirs is None) == (not any(a.n and b.n for a, b in strata))
    if ours is not None and theirs is not None:
        assert math.isfinite(ours.place)
        assert ours.place == pytest.approx(-theirs.place, abs=1e-6)
        assert 0 < ours.information <= min(ours.n, ours.n_champion)


def test_graded_ratings_say_more_than_thumbs() -> None:
    """Where the squares are known the walk goes further for the same means; without them it is never too sure."""
    graded = walk([(Sums(100, 60, 40), Sums(100, 50, 30))])
    thumbs = walk([(Sums(100, 60), Sums(100, 50))])
    assert graded is not None
    assert thumbs is not None
    assert graded.z > thumbs.z > 0


def test_what_does_not_vary_is_certain_only_beside_the_unit_interval() -> None:
    """Equal numbers without bounds are infinitely far apart; ratings that are all alike are not."""
    assert walk([(Sums(30, 60, 120), Sums(30, 30, 30))], unit=False).place == math.inf  # type: ignore[union-attr]
    assert walk([(Sums(30, 30, 30), Sums(30, 30, 30))], unit=False).place == 0.0  # type: ignore[union-attr]
    assert math.isfinite(walk([(Sums(30, 30), Sums(30, 0))]).place)  # type: ignore[union-attr]


@pytest.mark.parametrize(("level", "horizon"), [(0.0, 10), (1.0, 10), (0.05, 0)])
def test_a_level_and_a_horizon_are_checked(level: float, horizon: float) -> None:
    """What is no level, or no time, is refused rather than answered with nonsense."""
    with pytest.raises(ValueError, match="level"):
        horizon_bound(level, horizon)
    with pytest.raises(ValueError, match="level"):
        mixture_bound(level, 10.0, horizon)
