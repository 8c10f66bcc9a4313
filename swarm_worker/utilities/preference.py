"""Rated answers as a smooth score: does the candidate find the good answers likelier than the champion did?

The implicit reward of DPO (Rafailov et al., arXiv:2305.18290, eq. 5) and KTO (Ethayarajh et al., arXiv:2402.01306), on
mean token log-likelihoods: ``sigmoid(beta * s * (l_x(y|q) - l_ref(y|q)))``, s = +1 for a good answer, -1 for a bad one.
In (0, 1); 0.5 means "no change from the reference".

A bad answer is what the champion itself said, so whatever moves away from the champion makes it less likely, for better
or worse; a search that is paid for that unlearns the champion. Therefore an item with a good answer is scored on that
alone, and one with only a bad answer costs when it becomes likelier and earns at most 0.5. Measured on a starter pack,
champion 52.4%, two searches each: margin of both sides (DPO's) 46.0 and 47.4%, good side alone 54.9 and 55.5%; from
ratings without corrections 21.1 and 13.9% without the limit, 54.8 and 54.5% with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from swarm_worker.scoring.engine import Scored, ScoringEngine
from swarm_worker.utilities.utility import Item, Reference


@dataclass(frozen=True, slots=True)
class Preference:
    """``beta``: how soon an item counts as won: at beta * gain = 3 it gives .95."""

    name: ClassVar[str] = "preference"
    beta: float = 1.0

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ValueError(f"beta must be > 0, not {self.beta!r}")

    def prepare(self, engine: ScoringEngine, reference: Scored, items: Sequence[Item]) -> Reference:
        return Reference(tuple(_likelihoods(engine, reference, items)))

    def scores(self, engine: ScoringEngine, scored: Scored, items: Sequence[Item], reference: Reference) -> list[float]:
        """Raises ``ValueError`` where ``reference`` was prepared for other items."""
        if len(reference.likelihoods) != len(items):
            raise ValueError(f"the reference is of {len(reference.likelihoods)} items, not of these {len(items)}")
        now = _likelihoods(engine, scored, items)
        gains = [after - before for after, before in zip(now, reference.likelihoods, strict=True)]
        return [
            _sigmoid(self.beta * gain) if item.good is not None else min(0.5, _sigmoid(-self.beta * gain))
            for item, gain in zip(items, gains, strict=True)
        ]


def _likelihoods(engine: ScoringEngine, scored: Scored, items: Sequence[Item]) -> list[float]:
    """Of each item's good answer; of its bad one where it has no other."""
    answers = [item.bad or "" if item.good is None else item.good for item in items]
    pairs = [engine.tokenise(item.question, answer) for item, answer in zip(items, answers, strict=True)]
    return engine.log_likelihoods(scored, pairs)


def _sigmoid(x: float) -> float:
    # The form that does not overflow for large negative x.
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))
