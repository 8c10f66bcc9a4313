"""Intervals over cells and items, spread over seeds, and the harmonic mean's own interval."""

from __future__ import annotations

import numpy as np
import pytest

from swarm_worker.gate import paired_bootstrap
from swarm_worker.statistics import (
    both_judged,
    harmonic_bootstrap,
    harmonic_mean,
    mapped,
    mean_interval,
    spread,
    two_level_bootstrap,
)


def test_spread_over_seeds() -> None:
    """Mean, the sample's deviation, its standard error and the extremes; one seed has no known deviation."""
    found = spread([0.5, 0.6, 0.7])
    assert (found.n, found.lowest, found.highest) == (3, 0.5, 0.7)
    assert (found.mean, found.deviation) == (pytest.approx(0.6), pytest.approx(0.1))
    assert found.standard_error == pytest.approx(0.1 / 3**0.5)
    assert spread([0.5]).deviation == 0.0
    for bad in ([], [0.1, float("nan")]):
        with pytest.raises(ValueError, match="finite"):
            spread(bad)


def test_one_cell_is_the_gates_paired_bootstrap() -> None:
    """With one cell only items are resampled: the same interval, within what 10,000 draws leave open."""
    rng = np.random.default_rng(1)
    before, after = rng.random(200), rng.random(200) + 0.1
    expected, found = paired_bootstrap(before, after, seed=1), two_level_bootstrap([(before, after)], seed=2)
    assert found.mean == pytest.approx(expected.mean)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.004)


def test_cells_that_disagree_widen_the_interval() -> None:
    """Seeds of very different gain leave more doubt than the same items in one cell would; equal cells do not."""
    cells = [([0.0] * 100, [gain] * 100) for gain in (-0.1, 0.0, 0.1, 0.2, 0.3)]
    found = two_level_bootstrap(cells, seed=1)
    assert found.mean == pytest.approx(0.1)
    assert found.low < 0.0
    assert found.high > 0.2
    same = two_level_bootstrap([([0.2] * 50, [0.3] * 50)] * 5, seed=1)
    assert (same.low, same.high, same.p_better) == (pytest.approx(0.1), pytest.approx(0.1), 1.0)


def test_cells_weigh_the_same_whatever_their_length() -> None:
    """A cell with ten times the items counts once."""
    cells = [([0.0] * 10, [1.0] * 10), ([0.0] * 100, [0.0] * 100)]
    assert two_level_bootstrap(cells, seed=1).mean == 0.5


def test_the_interval_covers_what_it_says() -> None:
    """Gains that vary by seed (sd .06) and by item (sd .3): 95% intervals of 12 cells hold the true gain in at least 87% of
    200 trials (a bootstrap of few cells is a little narrow); those of the items alone, cells pooled, in far fewer."""
    rng = np.random.default_rng(7)
    held = pooled = 0
    for trial in range(200):
        gains = 0.05 + rng.normal(0, 0.06, size=12)
        cells = [(np.zeros(100), gain + rng.normal(0, 0.3, size=100)) for gain in gains]
        found = two_level_bootstrap(cells, seed=trial, draws=300)
        held += found.low <= 0.05 <= found.high
        items = np.concatenate([after for _, after in cells])
        alone = paired_bootstrap(np.zeros(len(items)), items, seed=trial, draws=300)
        pooled += alone.low <= 0.05 <= alone.high
    assert held >= 0.87 * 200
    assert pooled < held - 30


def test_it_repeats_from_its_seed() -> None:
    """The same cells and seed give the same numbers."""
    rng = np.random.default_rng(3)
    cells = [(rng.random(30), rng.random(30)) for _ in range(4)]
    assert two_level_bootstrap(cells, seed=5, draws=1000) == two_level_bootstrap(cells, seed=5, draws=1000)


def test_the_interval_of_a_mean_score() -> None:
    """Of one method alone: its mean over cells, with the same two levels."""
    found = mean_interval([[1.0, 0.0] * 50, [1.0, 1.0, 0.0, 0.0] * 25], seed=1)
    assert found.mean == 0.5
    assert 0.38 < found.low < 0.46
    assert 0.54 < found.high < 0.62


def test_unpaired_or_broken_scores_are_refused() -> None:
    """By the number of the cell that is wrong."""
    with pytest.raises(ValueError, match="at least one cell"):
        two_level_bootstrap([], seed=1)
    with pytest.raises(ValueError, match="cell 1: paired scores must be as many: 1 before, 2 after"):
        two_level_bootstrap([([0.0], [1.0]), ([0.0], [1.0, 1.0])], seed=1)
    with pytest.raises(ValueError, match="cell 0: scores must be finite"):
        two_level_bootstrap([([], [])], seed=1)
    with pytest.raises(ValueError, match="level"):
        two_level_bootstrap([([0.0], [1.0])], seed=1, level=95)
    with pytest.raises(ValueError, match="draws"):
        two_level_bootstrap([([0.0], [1.0])], seed=1, draws=0)


def test_unjudged_pairs_are_left_out() -> None:
    """An item that could not be judged on one side counts for neither."""
    assert both_judged([0.1, None, 0.3, 0.4], [0.5, 0.6, None, 0.8]) == ([0.1, 0.4], [0.5, 0.8])
    with pytest.raises(ValueError, match="argument 2"):
        both_judged([0.1], [])


def test_harmonic_mean() -> None:
    """n over the sum of inverses; 0 where one is 0 or below; signed utilities are mapped to a share first."""
    assert harmonic_mean([0.5, 1.0]) == pytest.approx(2 / 3)
    assert harmonic_mean([0.9, 0.0]) == harmonic_mean([0.9, -0.1]) == 0.0
    assert [mapped(u, (-1.0, 1.0)) for u in (-1.0, 0.0, 1.0)] == [0.0, 0.5, 1.0]
    assert mapped(0.3, (0.0, 1.0)) == 0.3


def test_a_gain_in_the_harmonic_mean_is_resampled_by_task() -> None:
    """Every draw keeps each task's number of items: a task of one item is in all of them, and equal items leave no doubt."""
    before, after = [0.5] * 10 + [0.2], [0.5] * 10 + [0.4]
    found = harmonic_bootstrap(before, after, ["big"] * 10 + ["small"], seed=1, draws=200)
    gain = 2 / (1 / 0.5 + 1 / 0.4) - 2 / (1 / 0.5 + 1 / 0.2)
    assert (found.mean, found.low, found.high) == (pytest.approx(gain),) * 3
    assert found.p_better == 1.0


def test_a_gain_in_the_harmonic_mean_of_noisy_tasks() -> None:
    """The interval holds the observed gain, repeats from its seed, and mirrors when the sides are swapped."""
    rng = np.random.default_rng(2)
    tasks = [["a", "b", "c"][n % 3] for n in range(300)]
    before = (rng.random(300) < 0.4).astype(float)
    after = (rng.random(300) < 0.6).astype(float)
    found = harmonic_bootstrap(before, after, tasks, seed=1, draws=2000)
    swapped = harmonic_bootstrap(after, before, tasks, seed=1, draws=2000)

    def utility(scores):
        return harmonic_mean(
            [float(np.mean([s for s, t in zip(scores, tasks, strict=True) if t == task])) for task in "abc"]
        )

    assert found.mean == pytest.approx(utility(after) - utility(before))
    assert 0 < found.low < found.mean < found.high
    assert (swapped.low, swapped.high) == (pytest.approx(-found.high), pytest.approx(-found.low))
    signed = harmonic_bootstrap(2 * before - 1, 2 * after - 1, tasks, 1, dict.fromkeys("abc", (-1.0, 1.0)), draws=2000)
    assert (signed.mean, signed.low) == (pytest.approx(found.mean), pytest.approx(found.low))
    with pytest.raises(ValueError, match="tasks must be as many as scores: 1 for 300"):
        harmonic_bootstrap(before, after, ["a"], seed=1)
