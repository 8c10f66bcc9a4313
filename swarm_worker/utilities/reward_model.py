"""What a reward model thinks of the answers: Model Swarms' third objective (arXiv:2410.11163), with its verbose and concise
variants.

The paper averages reward and length, so that an answer earns half the score by its length alone, whatever it says
(`research/model_swarms.md`, defect E14). Here length can only take away from a reward:
``utility = r * (1 - length_share * (1 - l))``, r the clipped and normalised reward, l in [0, 1] how verbose (or
concise) the answer is. An answer without reward has no utility at any length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from swarm_worker.scoring.engine import Asked, Told
from swarm_worker.utilities.classifier import Classifier, Judged
from swarm_worker.utilities.utility import Item, Verdict, mean

Variant = Literal["default", "verbose", "concise"]


@dataclass(frozen=True, slots=True)
class RewardModel:
    """In [0, 1]: the reward of the greedy answer, clipped to [``low``, ``high``] and mapped to [0, 1].

    ``model``: a local sequence classifier with one output, a folder or Hugging Face id. ``low``, ``high``: choose them from
    the rewards of answers that you know; beyond them nothing is gained. ``variant``: "verbose" wants ``long`` words,
    "concise" ``short`` or fewer, linear between the two; the wrong length takes away ``length_share`` of the reward. An empty
    answer is malformed and 0.
    """

    name: ClassVar[str] = "reward_model"
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    needs_reference: ClassVar[bool] = False
    model: str | None = None
    variant: Variant = "default"
    low: float = -5.0
    high: float = 5.0
    short: int = 10
    long: int = 150
    length_share: float = 0.5
    max_tokens: int = 200

    def __post_init__(self) -> None:
        if self.variant not in get_args(Variant):
            raise ValueError(f"variant must be one of {', '.join(get_args(Variant))}, not {self.variant!r}")
        if not -math.inf < self.low < self.high < math.inf:
            raise ValueError(f"low must be below high, both finite, not {self.low!r} and {self.high!r}")
        if not 0 <= self.short < self.long:
            raise ValueError(f"short must be 0 or more and below long, not {self.short!r} and {self.long!r}")
        if not 0 <= self.length_share <= 1:
            raise ValueError(f"length_share must be in [0, 1], not {self.length_share!r}")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be 1 or more, not {self.max_tokens!r}")

    def asks(self, items: Sequence[Item]) -> Asked:
        """Raises ``ValueError`` where ``model`` is missing, or is not a classifier with one output."""
        self._classifier()
        return Asked(answers=tuple(item.question for item in items), max_tokens=self.max_tokens)

    def judge(self, items: Sequence[Item], told: Told, reference: Told | None) -> list[Verdict]:
        pairs = [Judged(item.question, answer) for item, answer in zip(items, told.answers, strict=True)]
        rewards = iter(self._classifier().logits([pair for pair in pairs if pair.answer.strip()])[:, 0])
        return [
            Verdict(self._utility(float(next(rewards)), pair.answer))
            if pair.answer.strip()
            else Verdict(0.0, malformed=True)
            for pair in pairs
        ]

    def combine(self, items: Sequence[Item], values: Sequence[float | None]) -> float:
        return mean(values)

    def _utility(self, reward: float, answer: str) -> float:
        r = _share(reward, self.low, self.high)
        if self.variant == "default":
            return r
        verbosity = _share(len(answer.split()), self.short, self.long)
        fit = verbosity if self.variant == "verbose" else 1.0 - verbosity
        return r * (1.0 - self.length_share * (1.0 - fit))

    def _classifier(self) -> Classifier:
        if not self.model:
            raise ValueError("reward_model needs model: the folder of a sequence classifier with one output")
        classifier = Classifier.load(self.model)
        if len(classifier.labels) != 1:
            raise ValueError(f"model {self.model!r} has outputs {classifier.labels}; a reward model has one")
        return classifier


def _share(value: float, low: float, high: float) -> float:
    return min(1.0, max(0.0, (value - low) / (high - low)))
