"""A trial in the simulated months: ratings and who gave them, counted as the loop counts them, and the loop's own verdict."""

from __future__ import annotations

from registry.canary_policy import CanaryPolicy
from registry.ratings import NANO
from swarm_worker.raters import Rated, design_effect, rating_sums
from swarm_worker.sequential import Sums
from swarm_worker.trial import Counted
from swarm_worker.verdict import Verdict, judge

POLICY = CanaryPolicy(
    automatic=True,
    steps=(0.5,),
    dwell=0,
    early_ratings=60,
    early_lead=0.0,
    max_ratings=120,
    false_moves=0.4,
    promote_on="no_worse",
    tolerance=0.15,
)
"""A net behind a gate, in a small town: half of it decides within days. What is much worse is off within a few hundred ratings;
what is better, or no different, seldom falls. How other policies would decide is in docs/log.md."""


class Trial:
    """``version`` against ``champion``. One stratum a share; a rater is one cluster over both sides (``raters.py``)."""

    def __init__(self, version: int, champion: int, policy: CanaryPolicy = POLICY) -> None:
        self.version, self.champion, self.policy = version, champion, policy
        self.step = 0
        self._said: list[Rated] = []

    @property
    def share(self) -> float:
        return self.policy.steps[self.step]

    def rated(self, version: int, rater: str, rating: float) -> None:
        """Somebody rated an answer of ``version``; that of any other than the two says nothing here."""
        if version in (self.version, self.champion):
            self._said.append(Rated(self.step, version == self.version, rater, rating))

    def verdict(self) -> Verdict:
        """What the users say up to now."""
        strata = [(_counted(ours), _counted(theirs)) for ours, theirs in rating_sums(self._said, self.step + 1)]
        return judge(self.policy, strata, first_share=self.step == 0, effect=design_effect(self._said))

    def rise(self) -> bool:
        """The next share, where there is one and this one had its ratings; False where the trial stays as it is."""
        rated = sum(one.ours and one.step == self.step for one in self._said)
        wanted = self.policy.early_ratings if self.step == 0 else self.policy.min_ratings
        if self.step + 1 == len(self.policy.steps) or rated < wanted:
            return False
        self.step += 1
        return True


def _counted(sums: Sums) -> Counted:
    return {"ratings": sums.n, "rating_sum": sums.total, "rating_square_nano": sums.square_sum * NANO}
