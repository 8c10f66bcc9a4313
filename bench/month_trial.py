"""A trial in the simulated months: counts ratings as the registry's figures do, and asks the loop's own verdict."""

from __future__ import annotations

from collections import defaultdict

from registry.canary_policy import CanaryPolicy
from swarm_worker.trial import Counted
from swarm_worker.verdict import Verdict, judge

POLICY = CanaryPolicy(automatic=True, steps=(0.2, 0.5), dwell=0, max_ratings=800)
"""Wider steps and an earlier horizon than the defaults: the town of these months has few people."""
NANO = 1_000_000_000


class Trial:
    """``version`` against ``champion``. One stratum a share, as ``swarm_worker/trial.py`` folds them from the history."""

    def __init__(self, version: int, champion: int) -> None:
        self.version, self.champion = version, champion
        self.step = 0
        self._strata: list[dict[int, dict[str, float]]] = [_empty()]

    @property
    def share(self) -> float:
        return POLICY.steps[self.step]

    def rated(self, version: int, rating: float) -> None:
        """Somebody rated an answer of ``version``."""
        sums = self._strata[-1][version]
        sums["ratings"] += 1
        sums["rating_sum"] += rating
        sums["rating_square_nano"] += rating * rating * NANO

    def verdict(self) -> Verdict:
        """What the users say up to now."""
        strata: list[tuple[Counted, Counted]] = [(each[self.version], each[self.champion]) for each in self._strata]
        return judge(POLICY, strata, first_share=self.step == 0)

    def rise(self) -> bool:
        """The next share, where there is one and this one had its ratings; False where the trial stays as it is."""
        rated = self._strata[-1][self.version]["ratings"]
        wanted = POLICY.early_ratings if self.step == 0 else POLICY.min_ratings
        if self.step + 1 == len(POLICY.steps) or rated < wanted:
            return False
        self.step += 1
        self._strata.append(_empty())
        return True


def _empty() -> dict[int, dict[str, float]]:
    return defaultdict(lambda: defaultdict(float))
