"""A setting for the tests of baselines: a tiny base, three random experts, six items, an engine that counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from swarm_worker.baselines import Found, Setting
from swarm_worker.hull import HullOptions
from swarm_worker.scorer import Scorer
from swarm_worker.scoring.engine import Asked, Question, Scored, ScoringEngine, Told
from swarm_worker.scoring.transformers import TransformersEngine
from swarm_worker.utilities import UTILITIES, Item
from tests.contract.tiny_model import make_base
from tests.unit.tiny_experts import make_expert

N = 3
NAMES = ("up", "down", "left")


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


ITEMS = [
    Item(messages=chat(f"{task} {word}"), good=word[:3]) for task in ("go", "say") for word in ("one", "two", "three")
]
TRAINING = tuple(
    Item(messages=chat(f"{name} {word}"), good=word, task=name) for name in NAMES for word in ("ab", "cd", "ef")
)
PROBE = Asked(
    likelihoods=tuple(Question(chat(f"ask {word}"), "yes") for word in ("one", "two")),
    answers=(chat("ask one"), chat("say it")),
    max_tokens=4,
)


class Counting:
    """An engine that counts what it is asked: models times questions."""

    def __init__(self, engine: ScoringEngine) -> None:
        self.engine, self.identity, self.asked = engine, engine.identity, 0

    @property
    def context(self) -> int:
        return self.engine.context

    def set_experts(self, folders: Sequence[Path], options: HullOptions = HullOptions()) -> None:  # noqa: B008
        self.engine.set_experts(folders, options)

    def length(self, prompt, answer) -> int:
        return self.engine.length(prompt, answer)

    def ask(self, scored: Sequence[Scored], asked: Asked) -> list[Told]:
        self.asked += len(scored) * (len(asked.likelihoods) + len(asked.answers))
        return self.engine.ask(scored, asked)


def make_pack(root: Path) -> tuple[Path, tuple[Path, ...]]:
    """A base and its experts' folders."""
    base = make_base(root / "base")
    return base, tuple(make_expert(base, root / str(i), seed=i, r=2) for i in range(N))


def load_engine(base: Path) -> Counting:
    return Counting(TransformersEngine.load(base))


def make_setting(engine: Counting, base: Path, folders: tuple[Path, ...], scratch: Path, **changes) -> Setting:
    hull = changes.get("hull", HullOptions())
    engine.set_experts(folders, hull)
    space, utility = changes.pop("space", "delta"), changes.pop("utility", UTILITIES["preference"])
    scratch.mkdir(exist_ok=True)
    fixed = Setting(
        scorer=Scorer(engine, utility, ITEMS, space=space),
        folders=folders,
        names=NAMES[: len(folders)],
        evaluations=24,
        seed=5,
        scratch=scratch,
        max_rank=None,
        base=base,
        training=TRAINING,
    )
    engine.asked = 0
    return dataclasses.replace(fixed, **changes)


def utility_of(setting: Setting, found: Found) -> float:
    asked = setting.scorer.utility.asks(setting.items)
    return setting.scorer.judged(found.contender.told(setting.scorer.engine, asked)).utility
