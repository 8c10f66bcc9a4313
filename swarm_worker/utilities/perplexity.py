"""How well a model predicts given texts: one over the perplexity (Jelinek et al. 1977), so that higher is better.

Model Swarms reports that perplexity "could not be optimised reliably"; it is here as a control, and for text without a task.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from swarm_worker.scoring.engine import Asked, Question, Told
from swarm_worker.utilities.utility import Item, Verdict, mean


@dataclass(frozen=True, slots=True)
class Perplexity:
    """exp(mean token log-likelihood) of ``item.good`` after the item's question, in (0, 1]; the utility is the mean over
    items, each of equal weight whatever its length.

    The text is open: it need not be where an answer ends. Raises ``ValueError`` for an item without it.
    """

    name: ClassVar[str] = "perplexity"
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    needs_reference: ClassVar[bool] = False

    def asks(self, items: Sequence[Item]) -> Asked:
        return Asked(likelihoods=tuple(Question(item.question, item.right_text, closed=False) for item in items))

    def judge(self, items: Sequence[Item], told: Told, reference: Told | None) -> list[Verdict]:
        return [Verdict(math.exp(reply.mean)) for reply in told.likelihoods]

    def combine(self, items: Sequence[Item], values: Sequence[float | None]) -> float:
        return mean(values)
