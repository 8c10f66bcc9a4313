"""One cell of the search bench: one blend, one seed, every method on the same items at the same budget.

The users of a cell ask for one blend of the starter pack's skills. Search items are what they sent (``traffic``), test items
are of a split that nothing else sees. Every method starts from all experts of the pack and is not told which of them the
blend needs.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from starter import skills
from swarm_worker import search
from swarm_worker.baselines import BASELINES, Contender, Found, Setting
from swarm_worker.formula import describe
from swarm_worker.hull import Space
from swarm_worker.presets import PRESETS, smooth
from swarm_worker.scorer import Scorer, climb
from swarm_worker.scoring.transformers import TransformersEngine
from swarm_worker.search import Coefficients, Outcome
from swarm_worker.search.generations import Generations
from swarm_worker.utilities import Item, Utility, make

PACK = Path(skills.__file__).parent
EXPERTS = tuple(sorted((PACK / "experts").iterdir()))
NAMES = tuple(folder.name for folder in EXPERTS)
BLENDS: dict[str, tuple[str, ...]] = {
    "blend": skills.BLEND,
    "letters": ("dedup", "sort", "mask"),
    "words": ("reverse", "initials", "largest"),
}
MAX_TOKENS = 24
SERVED_RANK = 16  # the starter service's ``max_lora_rank``
ENDLESS = 10**6


@dataclass(frozen=True)
class Size:
    """Items to search on and to test on, evaluations that every method may spend, items of training data a skill."""

    search: int
    test: int
    evaluations: int
    training: int


def run_cell(blend: str, seed: int, size: Size, methods: tuple[str, ...]) -> dict[str, Any]:
    """Every method's scores on the test items, what it spent and how long it took; ``shoal`` with its way there."""
    torch.set_num_threads(1)
    members = BLENDS[blend]
    found: dict[str, Any] = {"blend": blend, "seed": seed, "methods": {}}
    with tempfile.TemporaryDirectory(prefix="shoal-search-") as scratch:
        engine = TransformersEngine.load(PACK / "base", EXPERTS)
        items = draw(members, "traffic", size.search, seed)
        test = draw(members, "test", size.test, seed)
        training = [item for skill in skills.SKILLS for item in draw((skill,), "train", size.training, seed)]
        for name in methods:
            cell = Cell(engine, items, tuple(training), size, seed, Path(scratch))
            began = time.perf_counter()
            try:
                result = cell.run(name)
            except ValueError as error:
                found["methods"][name] = {"refused": str(error)}
                continue
            seconds = time.perf_counter() - began
            found["methods"][name] = {
                "test": right(engine, result.contender, test),
                "item_generations": result.item_generations,
                "seconds": round(seconds, 2),
                "note": result.note,
            }
            if cell.way:
                found["methods"][name]["way"] = cell.measured_way(test)
    return found


@dataclass
class Step:
    """A search's own selected position from some point of its budget on."""

    item_generations: int
    seconds: float
    coefficients: Coefficients


class Cell:
    """Runs one method. ``way``: the positions that a preset had selected on its way, for ``shoal`` only."""

    def __init__(
        self,
        engine: TransformersEngine,
        items: list[Item],
        training: tuple[Item, ...],
        size: Size,
        seed: int,
        scratch: Path,
    ) -> None:
        self.engine, self.items, self.training = engine, items, training
        self.size, self.seed, self.scratch = size, seed, scratch
        self.way: list[Step] = []

    def run(self, name: str) -> Found:
        if name in PRESETS:
            return self._preset(name)
        # Everybody but the published recipe has the best score and space that we know.
        if name in BASELINES:
            return BASELINES[name](self._setting(PRESETS["shoal"].space, shoal_score()))
        if name == "paper_delta":
            return self._preset("paper", space="delta")
        return self._search(name)

    def _search(self, name: str) -> Found:
        setting = self._setting(PRESETS["shoal"].space, shoal_score())
        optimizer = search.make(name, n_experts=len(EXPERTS), seed=self.seed, max_generations=ENDLESS)
        best = climb(optimizer, setting.scorer, item_generations=setting.item_generations)
        spent = setting.scorer.item_generations
        return Found(setting.served(best.coefficients, name), spent, describe(NAMES, best.coefficients))

    def measured_way(self, test: list[Item]) -> list[dict[str, Any]]:
        """What each selected position gets right of the test items, cut to what is served."""
        setting = self._setting(PRESETS["shoal"].space, shoal_score())
        return [
            {
                "item_generations": step.item_generations,
                "seconds": step.seconds,
                "test": sum(right(self.engine, setting.served(step.coefficients, "way"), test)) / len(test),
            }
            for step in self.way
        ]

    def _setting(self, space: Space, utility: Utility) -> Setting:
        return Setting(
            scorer=Scorer(self.engine, utility, self.items, space=space),
            folders=EXPERTS,
            names=NAMES,
            evaluations=self.size.evaluations,
            seed=self.seed,
            scratch=self.scratch,
            max_rank=SERVED_RANK,
            base=PACK / "base",
            training=self.training,
        )

    def _preset(self, name: str, space: Space | None = None) -> Found:
        preset = PRESETS[name]
        setting = self._setting(space or preset.space, shoal_score() if preset.smooth else accuracy())
        optimizer = preset_search(name, self.seed, endless=name == "shoal")
        began = time.perf_counter()

        def note(search: Generations, _outcomes: list[Outcome]) -> None:
            if search.best and (not self.way or self.way[-1].coefficients != search.best.coefficients):
                spent = setting.scorer.item_generations
                self.way.append(Step(spent, round(time.perf_counter() - began, 2), search.best.coefficients))

        follow: Callable[[Generations, list[Outcome]], None] | None = note if name == "shoal" else None
        best = climb(optimizer, setting.scorer, item_generations=setting.item_generations, on_generation=follow)
        formula = describe(NAMES, best.coefficients)
        stopped = optimizer.should_stop or "the budget is spent"
        text = f"{formula}; {best.utility:.4f} on the search items in generation {best.generation}; {stopped}"
        return Found(setting.served(best.coefficients, name), setting.scorer.item_generations, text)


def preset_search(name: str, seed: int, *, endless: bool = False) -> Generations:
    """A preset's optimiser over the pack's experts; ``endless``: ended by its budget alone."""
    preset = PRESETS[name]
    options = dict(preset.options) | ({"max_generations": ENDLESS} if endless else {})
    return search.make(preset.optimizer, n_experts=len(EXPERTS), seed=seed, **options)


def accuracy() -> Utility:
    """What users get: the greedy answer is exactly right."""
    return make("exact_match", max_tokens=MAX_TOKENS)


def shoal_score() -> Utility:
    """What the shoal preset climbs on where accuracy is what counts."""
    name, options = smooth("exact_match", {"max_tokens": MAX_TOKENS})
    return make(name, **options)


def draw(members: tuple[str, ...], split: skills.Split, n: int, seed: int) -> list[Item]:
    """``n`` items of these skills in equal parts, shuffled; an item's ``task`` names its skill."""
    parts = [n // len(members) + (i < n % len(members)) for i in range(len(members))]
    drawn = [
        item
        for skill, part in zip(members, parts, strict=True)
        for item in (skills.items(skill, split, part, seed) if part else ())
    ]
    random.Random(f"{members}/{split}/{seed}").shuffle(drawn)
    return [
        Item(messages=[{"role": "user", "content": item.prompt}], good=item.answer, task=item.skill) for item in drawn
    ]


def right(engine: TransformersEngine, contender: Contender, test: list[Item]) -> list[float]:
    """Per item, 1.0 where the greedy answer is exactly right."""
    utility = accuracy()
    verdicts = utility.judge(test, contender.told(engine, utility.asks(test)), None)
    return [verdict.score or 0.0 for verdict in verdicts]
