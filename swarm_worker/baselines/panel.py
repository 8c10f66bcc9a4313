"""The experts asked once about the search items: any ensemble of them is then a matter of arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

from swarm_worker.baselines.contender import Ensemble, Weigh, fuse, shares_of
from swarm_worker.baselines.setting import Setting
from swarm_worker.search.optimizer import UTILITY_DECIMALS
from swarm_worker.utilities import Scores


class Panel:
    """Costs an evaluation an expert, ``item_generations``; what is made of the replies costs no more."""

    def __init__(self, setting: Setting) -> None:
        setting.require(setting.n_experts, "to ask each expert")
        self.members = tuple(setting.expert(i) for i in range(setting.n_experts))
        self.item_generations = setting.n_experts * len(setting.items)
        self._scorer = setting.scorer
        self._asked = setting.scorer.utility.asks(setting.items)
        self._tolds = setting.scorer.engine.ask(self.members, self._asked)

    def scores(self) -> list[Scores]:
        """Each expert's own."""
        return [self._scorer.judged(told) for told in self._tolds]

    def utility(self, weigh: Weigh) -> float:
        """Of the ensemble whose members count as ``weigh`` says."""
        told = fuse(self._asked, self._tolds, shares_of(weigh, self._scorer.engine, self._asked))
        return round(self._scorer.judged(told).utility, UTILITY_DECIMALS)

    def best(self, weighs: Sequence[Weigh]) -> Ensemble:
        """The ensemble that does best on the search items; of equals the first."""
        return Ensemble(self.members, max(weighs, key=self.utility))
