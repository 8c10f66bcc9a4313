"""What a baseline is given and what it gives back: the same for all, so that none has more than another."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from swarm_worker.baselines.contender import Contender, Single
from swarm_worker.hull import ExpertStack, HullOptions
from swarm_worker.scorer import Scorer
from swarm_worker.scoring.engine import AdapterFolder, Candidate
from swarm_worker.search import Coefficients
from swarm_worker.search.optimizer import UTILITY_DECIMALS
from swarm_worker.utilities import Item, Utility


@dataclass(frozen=True)
class Setting:
    """Everything that a baseline may use.

    ``scorer``: the search items, their utility and the engine, which already knows ``folders``. ``evaluations``: the
    budget, in positions on the search items. ``max_rank``: what a service takes; None: anything. ``training``: the data
    that the experts were trained on, where it is given; an item's ``task`` then names its expert. ``scratch``: a folder for
    adapters. ``hull``: what the engine's hull is made of. ``utility``: what users want, where the scorer's is only its score.
    """

    scorer: Scorer
    folders: tuple[Path, ...]
    names: tuple[str, ...]
    evaluations: int
    seed: int
    scratch: Path
    max_rank: int | None
    base: Path
    training: tuple[Item, ...] = ()
    hull: HullOptions = HullOptions()  # noqa: RUF009 - frozen
    utility: Utility | None = None

    @property
    def n_experts(self) -> int:
        return len(self.folders)

    @property
    def items(self) -> list[Item]:
        return self.scorer.items

    @property
    def item_generations(self) -> int:
        """The budget in item-generations."""
        return self.evaluations * len(self.items)

    def require(self, evaluations: int, what_for: str) -> None:
        """Raise ``ValueError`` where the budget does not cover ``evaluations``."""
        if self.evaluations < evaluations:
            raise ValueError(f"evaluations must be {evaluations} or more {what_for}, not {self.evaluations}")

    def point(self, coefficients: Sequence[float]) -> Candidate:
        """The point of the hull with these coefficients of the experts, in every layer group; 0 for any other column."""
        others = self.hull.columns(self.n_experts) - self.n_experts
        position = (*coefficients, *[0.0] * others) * self.hull.layer_groups
        return Candidate(position, self.scorer.space)

    def expert(self, expert: int) -> Candidate:
        return self.point([float(i == expert) for i in range(self.n_experts)])

    def scaled(self, expert: int, scale: float) -> Candidate:
        """An expert with its update times ``scale``. In the space of factors an update weighs its coefficient squared."""
        coefficient = math.sqrt(scale) if self.scorer.space == "factors" else scale
        return self.point([coefficient * (i == expert) for i in range(self.n_experts)])

    def utilities(self, scored: Sequence[Candidate | AdapterFolder]) -> list[float]:
        """On the search items, rounded as a search rounds before it compares."""
        return [round(scores.utility, UTILITY_DECIMALS) for scores in self.scorer.scores(scored)]

    def ranking(self) -> list[tuple[int, float]]:
        """(expert, utility), best first; of equals the first one. Costs an evaluation an expert."""
        self.require(self.n_experts, "to score each expert")
        utilities = self.utilities([self.expert(i) for i in range(self.n_experts)])
        return sorted(enumerate(utilities), key=lambda ranked: -ranked[1])

    def stack(self) -> ExpertStack:
        """The experts alone, without the hull's other columns."""
        return ExpertStack.load(list(self.folders))

    def folder(self, name: str) -> Path:
        """A path in ``scratch`` that never was and never will be another adapter's: engines know adapters by their path."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.scratch)) / name

    def served(self, coefficients: Coefficients, name: str) -> Contender:
        """A position of the hull as users would get it: cut to ``max_rank``."""
        if self.max_rank is None:
            return Single(Candidate(coefficients, self.scorer.space))
        folder = self.folder(name)
        stack = ExpertStack.load(list(self.folders), self.hull)
        stack.write(coefficients, folder, space=self.scorer.space, max_rank=self.max_rank)
        return Single(AdapterFolder(folder))


@dataclass(frozen=True)
class Found:
    """What a baseline came to, what it spent on the way, and in words how."""

    contender: Contender
    item_generations: int
    note: str


Baseline = Callable[[Setting], Found]
