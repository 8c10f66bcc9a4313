"""Whether the greedy answer is the right one, blanks aside: SQuAD's exact match (arXiv:1606.05250) without its
lower-casing, because case can be what a user corrected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from swarm_worker.scoring.engine import Scored, ScoringEngine
from swarm_worker.utilities.utility import Item, Reference


@dataclass(frozen=True, slots=True)
class ExactMatch:
    """1 where the answer equals ``item.good``, else 0. ``max_tokens``: longer answers are cut there."""

    name: ClassVar[str] = "exact_match"
    max_tokens: int = 64

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be 1 or more, not {self.max_tokens!r}")

    def prepare(self, engine: ScoringEngine, reference: Scored, items: Sequence[Item]) -> Reference:
        """Nothing: it compares with the right answer only."""
        return Reference()

    def scores(self, engine: ScoringEngine, scored: Scored, items: Sequence[Item], reference: Reference) -> list[float]:
        """Raises ``ValueError`` for an item without a good answer: there is nothing to match."""
        right = [_required(item) for item in items]
        answers = engine.generate(scored, [item.question for item in items], self.max_tokens)
        return [float(is_match(answer, good)) for answer, good in zip(answers, right, strict=True)]


def is_match(answer: str, right: str) -> bool:
    """Equal, once every run of blanks is one space and the ends are bare."""
    return " ".join(answer.split()) == " ".join(right.split())


def _required(item: Item) -> str:
    if item.good is None:
        raise ValueError(f"item {item.digest[:12]} has no good answer to match")
    return item.good
