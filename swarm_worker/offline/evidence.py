"""Whether one model's scores are better than another's on the same items, in the utility's own terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from swarm_worker.gate import LEVEL, MIN_ITEMS, Interval, paired_bootstrap
from swarm_worker.statistics import harmonic_bootstrap
from swarm_worker.utilities import Item, Utility
from swarm_worker.utilities.multi import Multi

Values = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Evidence:
    """``before``, ``after``: utilities on the ``n`` items that both have a score for; ``gain``: their difference with its
    interval, items resampled in pairs (of several tasks: within each)."""

    n: int
    before: float
    after: float
    gain: Interval

    @property
    def better(self) -> bool:
        """Whether the gate lets it pass: enough items, and the whole interval above 0."""
        return self.n >= MIN_ITEMS and self.gain.low > 0

    @property
    def reason(self) -> str:
        """In one sentence."""
        told = (
            f"{self.after:.4g} against {self.before:.4g} on {self.n} items: {self.gain.mean:+.4f} "
            f"({LEVEL:.0%} interval {self.gain.low:+.4f} to {self.gain.high:+.4f})"
        )
        if self.n < MIN_ITEMS:
            return f"{told}; too few items to decide: {self.n} of at least {MIN_ITEMS}"
        if self.better:
            return told
        return f"{told}; " + ("it is worse" if self.gain.high < 0 else "the interval does not exclude 0")

    def to_json(self) -> dict[str, Any]:
        return {
            "n": self.n,
            "before": self.before,
            "after": self.after,
            "gain": self.gain.mean,
            "low": self.gain.low,
            "high": self.gain.high,
            "p_better": self.gain.p_better,
            "better": self.better,
            "reason": self.reason,
        }


def weigh(utility: Utility, items: Sequence[Item], before: Values, after: Values, *, seed: int) -> Evidence:
    """Compare two models' scores of ``items``. Raises ``ValueError`` where no item was scored for both."""
    both = [i for i in range(len(items)) if before[i] is not None and after[i] is not None]
    if not both:
        raise ValueError("no item could be judged for both")
    shown = [items[i] for i in both]
    one, other = [before[i] or 0.0 for i in both], [after[i] or 0.0 for i in both]
    if isinstance(utility, Multi):
        tasks = [item.task or "" for item in shown]
        bounds = {task: part.bounds for task, part in utility.utilities.items()}
        gain = harmonic_bootstrap(one, other, tasks, seed, bounds)
    else:
        gain = paired_bootstrap(one, other, seed)
    return Evidence(len(both), utility.combine(shown, one), utility.combine(shown, other), gain)
