"""Rated answers as a smooth score: does the candidate find the good answers likelier than the champion did?

The implicit reward of DPO (Rafailov et al., arXiv:2305.18290, eq. 5) and KTO (Ethayarajh et al., arXiv:2402.01306), on
mean token log-likelihoods: ``sigmoid(beta * s * (l_x(y|q) - l_ref(y|q)))``, s = +1 for a good answer, -1 for a bad one.
In (0, 1); 0.5 means "no change from the reference".

Where an item has a good answer, its bad one is left out. The bad one is what the champion itself said, so whatever
moves away from the champion makes it less likely, better or worse: a search that climbs on the margin of both sides
(DPO's) unlearns the champion. On the starter pack that search fell from 48.6% to 36.4% while its own score rose; on
the good side alone it rose to 50.2% (docs/log.md).
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
        return [
            _sigmoid(self.beta * _sign(item) * (after - before))
            for item, after, before in zip(items, now, reference.likelihoods, strict=True)
        ]


def _sign(item: Item) -> int:
    return 1 if item.good is not None else -1


def _likelihoods(engine: ScoringEngine, scored: Scored, items: Sequence[Item]) -> list[float]:
    """Of each item's good answer; of its bad one where it has no other."""
    answers = [item.bad or "" if item.good is None else item.good for item in items]
    pairs = [engine.tokenise(item.question, answer) for item, answer in zip(items, answers, strict=True)]
    return engine.log_likelihoods(scored, pairs)


def _sigmoid(x: float) -> float:
    # The form that does not overflow for large negative x.
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))
