"""How probable the right answer is: what exact match measures, without its steps, so that a search can climb on it.

The probability that a model answers exactly so, greedy or not: the product of its tokens' probabilities, or their geometric
mean, which does not punish long answers. (Teacher-forced likelihood; Schaeffer et al., arXiv:2304.15004, on why steps hide
progress.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from swarm_worker.scoring.engine import Asked, Question, Told
from swarm_worker.utilities.utility import Item, Verdict, mean

Normalise = Literal["token", "sum"]


@dataclass(frozen=True, slots=True)
class RightLikelihood:
    """exp(log-likelihood of the right answer), in (0, 1]; with choices, of the right option's text.

    ``normalise``: "token" takes the mean over the answer's tokens, the one that ends it among them; "sum" the whole.
    """

    name: ClassVar[str] = "likelihood"
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    needs_reference: ClassVar[bool] = False
    normalise: Normalise = "token"

    def __post_init__(self) -> None:
        if self.normalise not in get_args(Normalise):
            raise ValueError(f"normalise must be one of {', '.join(get_args(Normalise))}, not {self.normalise!r}")

    def asks(self, items: Sequence[Item]) -> Asked:
        return Asked(likelihoods=tuple(Question(item.question, item.right_text) for item in items))

    def judge(self, items: Sequence[Item], told: Told, reference: Told | None) -> list[Verdict]:
        return [
            Verdict(math.exp(reply.mean if self.normalise == "token" else reply.total)) for reply in told.likelihoods
        ]

    def combine(self, items: Sequence[Item], values: Sequence[float | None]) -> float:
        return mean(values)
