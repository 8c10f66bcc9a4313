"""What an analysis hands back: a table, the figures behind it, and how it is to be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from swarm_worker.gate import Interval


@dataclass(frozen=True, slots=True)
class Finding:
    """JSON values only. ``rows``: the table, the same columns in each. ``figures``: whatever else was measured, among it
    what the plot draws. ``notes``: sentences that belong beside the table, the null first."""

    name: str
    rows: list[dict[str, Any]]
    figures: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def difference(before: np.ndarray, after: np.ndarray, draws: int = 4_000) -> Interval:
    """The gain of ``after`` over ``before``, both (seeds, items), with its 95% interval; one of them may have one row, for
    what knows no seed.

    All seeds share the items, so seeds and items are resampled crosswise, each on its own (the pigeonhole bootstrap, Owen
    2007, "The pigeonhole bootstrap", Annals of Applied Statistics 1(2)): the interval speaks of other items and of other
    seeds. With fewer than about five seeds it knows too little of these; with one, nothing.
    """
    gain = np.asarray(after, dtype=float) - np.asarray(before, dtype=float)
    seeds, items = gain.shape
    rng = np.random.default_rng(0)
    seed_shares = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws) / seeds
    item_shares = rng.multinomial(items, np.full(items, 1 / items), size=draws) / items
    means = np.einsum("di,di->d", seed_shares @ gain, item_shares)
    _, low, high = central(means)
    return Interval(float(gain.mean()), low, high, float((means > 0).mean()))


def mean_and_spread(scores: np.ndarray) -> tuple[float, float]:
    """(seeds, items) -> the mean, and the standard deviation of the seeds' means (0 for one seed)."""
    means = scores.mean(axis=1)
    return float(means.mean()), float(means.std(ddof=1)) if len(means) > 1 else 0.0


def compared(who: str, scores: np.ndarray, before: np.ndarray, **more: Any) -> dict[str, Any]:
    """A row: the test score of ``who``, its spread over seeds, its paired difference from ``before`` with 95% interval."""
    test, spread = mean_and_spread(scores)
    gain = difference(before, scores)
    row = {"test": test, "spread": spread, "difference": gain.mean, "low": gain.low, "high": gain.high}
    return {"who": who, **more, **row}


def central(draws: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    """The mean of draws, and the range that holds the central 95% of them."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(np.mean(draws)), float(low), float(high)
