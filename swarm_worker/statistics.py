"""What several runs say together: spread over seeds, intervals over cells and items, and of a harmonic mean. Pure.

A cell is one run's paired scores on its test items: one blend (or task) and one seed. The interval of one cell is
``gate.paired_bootstrap``. Hierarchical bootstrap: Davison & Hinkley (1997), section 3.8; for seeds and items of
learned systems: Bouthillier et al. (2021), arXiv:2103.03098.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from swarm_worker.gate import DRAWS, LEVEL, Interval

Floats = NDArray[np.float64]
Bounds = tuple[float, float]
UNIT: Bounds = (0.0, 1.0)
# Numbers held at a time while resampling: 32 MB.
_AT_A_TIME = 2**22


@dataclass(frozen=True, slots=True)
class Spread:
    """A number over seeds. ``deviation``: the sample's standard deviation (n - 1); 0 for one seed, where none is known."""

    n: int
    mean: float
    deviation: float
    lowest: float
    highest: float

    @property
    def standard_error(self) -> float:
        return self.deviation / self.n**0.5


def spread(values: Sequence[float]) -> Spread:
    """Raises ``ValueError`` without values, or for one that is not finite."""
    found = _finite(values, "values")
    deviation = float(found.std(ddof=1)) if len(found) > 1 else 0.0
    return Spread(len(found), float(found.mean()), deviation, float(found.min()), float(found.max()))


def two_level_bootstrap(
    cells: Sequence[tuple[Sequence[float], Sequence[float]]], seed: int, draws: int = DRAWS, level: float = LEVEL
) -> Interval:
    """The mean over cells of ``after - before``, each cell of equal weight, and its interval over cells *and* items.

    ``cells``: (before, after), paired item by item; cells may differ in length. A draw takes as many cells, with
    replacement, and of each as many items, with replacement. So the interval speaks of other seeds as well as of other
    items; with fewer than about five cells it is too narrow, and with one it is that of the items alone. Raises
    ``ValueError`` without cells, and for scores that are not paired or not finite.
    """
    _require(draws, level)
    if not cells:
        raise ValueError("an interval over cells needs at least one cell")
    differences = [_paired(before, after, f"cell {number}") for number, (before, after) in enumerate(cells)]
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(cells), size=(draws, len(cells)))
    means = np.empty(drawn.shape)  # (draws, cells): the resampled mean of each cell that was drawn
    for number, difference in enumerate(differences):
        chosen = drawn == number
        means[chosen] = _resampled_means(rng, difference, int(chosen.sum()))
    return _interval(float(np.mean([d.mean() for d in differences])), means.mean(axis=1), level)


def mean_interval(cells: Sequence[Sequence[float]], seed: int, draws: int = DRAWS, level: float = LEVEL) -> Interval:
    """The mean score over cells with its two-level interval: ``two_level_bootstrap`` against 0."""
    return two_level_bootstrap([([0.0] * len(cell), cell) for cell in cells], seed, draws, level)


def both_judged(before: Sequence[float | None], after: Sequence[float | None]) -> tuple[list[float], list[float]]:
    """The pairs of which both sides could be judged: an item that nobody could judge counts for neither."""
    pairs = [(b, a) for b, a in zip(before, after, strict=True) if b is not None and a is not None]
    return [b for b, _ in pairs], [a for _, a in pairs]


def harmonic_mean(utilities: Sequence[float]) -> float:
    """``n / sum(1 / u)``; 0 where one is 0 or less. Raises ``ValueError`` without utilities."""
    if not utilities:
        raise ValueError("the harmonic mean of no utilities is not defined")
    return 0.0 if min(utilities) <= 0 else len(utilities) / sum(1.0 / u for u in utilities)


def mapped(utility: float, bounds: Bounds) -> float:
    """A utility that can be negative, as a share of the way from its lowest to its highest; any other as it is."""
    low, high = bounds
    return utility if low >= 0 else (utility - low) / (high - low)


def harmonic_bootstrap(
    before: Sequence[float],
    after: Sequence[float],
    tasks: Sequence[str],
    seed: int,
    bounds: Mapping[str, Bounds] | None = None,
    draws: int = DRAWS,
    level: float = LEVEL,
) -> Interval:
    """The gain in the harmonic mean over tasks, with its interval: items are resampled within their task.

    ``before[i]``, ``after[i]``: scores of the same item, of task ``tasks[i]``; both sides see the same draw of items. ``bounds``:
    by task, of a utility that can be negative. Raises ``ValueError`` as ``two_level_bootstrap``.
    """
    _require(draws, level)
    _paired(before, after, "the tasks together")
    if len(tasks) != len(before):
        raise ValueError(f"tasks must be as many as scores: {len(tasks)} for {len(before)}")
    rng = np.random.default_rng(seed)
    pairs = np.stack([np.asarray(before, dtype=float), np.asarray(after, dtype=float)])  # (2, items)
    observed, resampled = [], []  # per task: (2,), (draws, 2)
    for task in dict.fromkeys(tasks):
        own = pairs[:, np.asarray([t == task for t in tasks])]
        low, high = (bounds or {}).get(task, UNIT)
        own = own if low >= 0 else (own - low) / (high - low)
        observed.append(own.mean(axis=1))
        resampled.append(_resampled_means(rng, own.T, draws))
    gain = float(np.diff(_harmonic(np.stack(observed)[None]))[0, 0])
    return _interval(gain, np.diff(_harmonic(np.stack(resampled, axis=1)))[:, 0], level)


def _harmonic(utilities: Floats) -> Floats:
    """(draws, tasks, sides) -> (draws, sides)."""
    positive = (utilities > 0).all(axis=1)
    inverse = 1.0 / np.where(utilities > 0, utilities, 1.0)
    return np.where(positive, utilities.shape[1] / inverse.sum(axis=1), 0.0)


def _resampled_means(rng: np.random.Generator, items: Floats, draws: int) -> Floats:
    """Means over items (the first axis), each of as many drawn with replacement: (draws, ...)."""
    n = len(items)
    step = max(1, _AT_A_TIME // items.size)
    parts = [items[rng.integers(n, size=(min(step, draws - at), n))].mean(axis=1) for at in range(0, draws, step)]
    return np.concatenate(parts) if parts else np.empty((0, *items.shape[1:]))


def _interval(mean: float, means: Floats, level: float) -> Interval:
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(mean, float(low), float(high), float((means > 0).mean()))


def _paired(before: Sequence[float], after: Sequence[float], where: str) -> Floats:
    if len(before) != len(after):
        raise ValueError(f"{where}: paired scores must be as many: {len(before)} before, {len(after)} after")
    return _finite(after, where) - _finite(before, where)


def _finite(values: Sequence[float], where: str) -> Floats:
    found = np.asarray(values, dtype=float)
    if found.size == 0 or not np.isfinite(found).all():
        raise ValueError(f"{where}: scores must be finite, and at least one")
    return found


def _require(draws: int, level: float) -> None:
    if draws < 1:
        raise ValueError(f"draws must be 1 or more, not {draws!r}")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, not {level!r}")
