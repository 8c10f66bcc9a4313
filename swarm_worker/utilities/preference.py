"""Rated answers as a smooth score: does the candidate find the good answers likelier than the champion did?

The implicit reward of DPO (Rafailov et al., arXiv:2305.18290, eq. 5) and KTO (Ethayarajh et al., arXiv:2402.01306), on
mean token log-likelihoods: ``sigmoid(beta * s * (l_x(y|q) - l_ref(y|q)))``, s = +1 for a good answer, -1 for a bad one;
for both, the margin of the good over the bad. In (0, 1); 0.5 means "no change from the reference".
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
    """``beta``: how soon an item counts as won: at beta * margin = 3 it gives .95."""

    name: ClassVar[str] = "preference"
    beta: float = 1.0

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ValueError(f"beta must be > 0, not {self.beta!r}")

    def prepare(self, engine: ScoringEngine, reference: Scored, items: Sequence[Item]) -> Reference:
        good, bad = _likelihoods(engine, reference, items)
        return Reference(tuple(good), tuple(bad))

    def scores(self, engine: ScoringEngine, scored: Scored, items: Sequence[Item], reference: Reference) -> list[float]:
        if len(reference.good) != len(items):
            raise ValueError(f"the reference is of {len(reference.good)} items, not of these {len(items)}")
        good, bad = _likelihoods(engine, scored, items)
        return [
            _sigmoid(self.beta * (_gain(good[i], reference.good[i]) - _gain(bad[i], reference.bad[i])))
            for i in range(len(items))
        ]


def _likelihoods(
    engine: ScoringEngine, scored: Scored, items: Sequence[Item]
) -> tuple[list[float | None], list[float | None]]:
    """l(good) and l(bad) per item, None where there is no such answer; one call to the engine."""
    asked = [(i, side, answer) for i, item in enumerate(items) for side, answer in enumerate((item.good, item.bad))]
    given = [(i, side, answer) for i, side, answer in asked if answer is not None]
    pairs = [engine.tokenise(items[i].question, answer) for i, _, answer in given]
    sides: tuple[list[float | None], list[float | None]] = ([None] * len(items), [None] * len(items))
    for (i, side, _), likelihood in zip(given, engine.log_likelihoods(scored, pairs), strict=True):
        sides[side][i] = likelihood
    return sides


def _gain(now: float | None, before: float | None) -> float:
    return 0.0 if now is None or before is None else now - before


def _sigmoid(x: float) -> float:
    # The form that does not overflow for large negative x.
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))
