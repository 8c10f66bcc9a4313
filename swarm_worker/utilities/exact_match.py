"""Whether the greedy answer is the right one, blanks aside: SQuAD's exact match (arXiv:1606.05250) without its
lower-casing, because case can be what a user corrected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from swarm_worker.scoring.engine import Asked, Told
from swarm_worker.utilities.utility import Item, Verdict, mean


@dataclass(frozen=True, slots=True)
class ExactMatch:
    """1 where the answer equals ``item.good``, else 0. ``max_tokens``: longer answers are cut there.

    An empty answer is malformed. Raises ``ValueError`` for an item without a good answer: there is nothing to match.
    """

    name: ClassVar[str] = "exact_match"
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    needs_reference: ClassVar[bool] = False
    max_tokens: int = 64

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be 1 or more, not {self.max_tokens!r}")

    def asks(self, items: Sequence[Item]) -> Asked:
        for item in items:
            _ = item.right
        return Asked(answers=tuple(item.question for item in items), max_tokens=self.max_tokens)

    def judge(self, items: Sequence[Item], told: Told, reference: Told | None) -> list[Verdict]:
        return [
            Verdict(float(is_match(answer, item.right)), malformed=not answer.strip())
            for item, answer in zip(items, told.answers, strict=True)
        ]

    def combine(self, items: Sequence[Item], values: Sequence[float | None]) -> float:
        return mean(values)


def is_match(answer: str, right: str) -> bool:
    """Equal, once every run of blanks is one space and the ends are bare."""
    return " ".join(answer.split()) == " ".join(right.split())
