"""Rated answers as a smooth score: does the candidate find the good answers likelier than the champion did?

The implicit reward of DPO (Rafailov et al., arXiv:2305.18290, eq. 5) and KTO (Ethayarajh et al., arXiv:2402.01306), on
mean token log-likelihoods: ``sigmoid(beta * s * (l_x(y|q) - l_ref(y|q)))``, s = +1 for a good answer, -1 for a bad one.
In (0, 1); 0.5 means "no change from the reference".

A bad answer is what the champion itself said, so whatever moves away from the champion makes it less likely, for better
or worse; a search that is paid for that unlearns the champion. Therefore an item with a good answer is scored on that
alone, and one with only a bad answer costs when it becomes likelier and earns at most 0.5. Measured on a starter pack,
champion 52.4%, two searches each: margin of both sides (DPO's) 46.0 and 47.4%, good side alone 54.9 and 55.5%; from
ratings without corrections 21.1 and 13.9% without the limit, 54.8 and 54.5% with it.

Likelihoods are per token, so that long answers do not count for more than short ones. ``beta`` hardly moves the order of
positions (``python -m bench.feedback``); at 1 an item is won by a gain of a few nats a token and goes on paying until then.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from swarm_worker.scoring.engine import Asked, Question, Told
from swarm_worker.utilities.utility import Item, Verdict, mean


@dataclass(frozen=True, slots=True)
class Preference:
    """``beta``: how soon an item counts as won: at beta * gain = 3 it gives .95."""

    name: ClassVar[str] = "preference"
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    needs_reference: ClassVar[bool] = True
    beta: float = 1.0

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ValueError(f"beta must be > 0, not {self.beta!r}")

    def asks(self, items: Sequence[Item]) -> Asked:
        """How likely each item's good answer is; its bad one where it has no other."""
        return Asked(likelihoods=tuple(Question(item.question, _answer(item)) for item in items))

    def judge(self, items: Sequence[Item], told: Told, reference: Told | None) -> list[Verdict]:
        """Raises ``ValueError`` where ``reference`` is of other items, or missing."""
        if reference is None or len(reference.likelihoods) != len(items):
            known = 0 if reference is None else len(reference.likelihoods)
            raise ValueError(f"the reference is of {known} items, not of these {len(items)}")
        gains = [
            after.mean - before.mean for after, before in zip(told.likelihoods, reference.likelihoods, strict=True)
        ]
        return [
            Verdict(_sigmoid(self.beta * gain) if item.good is not None else min(0.5, _sigmoid(-self.beta * gain)))
            for item, gain in zip(items, gains, strict=True)
        ]

    def combine(self, items: Sequence[Item], values: Sequence[float | None]) -> float:
        return mean(values)


def _answer(item: Item) -> str:
    answer = item.bad if item.good is None else item.good
    if answer is None:
        raise ValueError(f"item {item.digest[:12]} has neither a good nor a bad answer")
    return answer


def _sigmoid(x: float) -> float:
    # The form that does not overflow for large negative x.
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))
