"""The utility of positions on one list of items, with its bill: what every search, baseline and study shares.

The bill is in item-generations: one item scored for one position, starting scores included. What is cached costs the same
as what is computed, so that two methods with equal bills had equal chances, whoever ran first.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any, Protocol

from swarm_worker.hull import Space
from swarm_worker.scoring.engine import BASE, AdapterFolder, Candidate, Scored, ScoringEngine, Told
from swarm_worker.search import Best, Coefficients, Move, Outcome
from swarm_worker.search.generations import Generations
from swarm_worker.utilities import Item, Scores, Utility, measure, reference_of
from swarm_worker.utilities.utility import scores_of

Cache = MutableMapping[str, Any]


class ScoresMoves(Protocol):
    """What ``climb`` needs: a ``Scorer``, or one that races (swarm_worker/racing.py)."""

    items: list[Item]
    item_generations: int

    def outcomes(self, moves: Sequence[Move]) -> list[Outcome]: ...


class Scorer:
    """Scores positions on ``items`` with one utility; ``engine`` already knows the experts.

    ``reference``: what a utility that compares is compared with, the base model unless told otherwise. ``cache``: any
    mapping from a key to a JSON value, shared as widely as one likes: ``hull`` (the experts' digests and the hull's
    options), the utility with its parameters, the engine, the items and the position are all part of a key.
    """

    def __init__(
        self,
        engine: ScoringEngine,
        utility: Utility,
        items: Sequence[Item],
        *,
        space: Space = "delta",
        reference: Scored = BASE,
        cache: Cache | None = None,
        hull: str = "",
    ) -> None:
        if not items:
            raise ValueError("items must not be empty: a position has no utility on nothing")
        self.engine = engine
        self.utility = utility
        self.items = list(items)
        self.space: Space = space
        self.item_generations = 0
        self.computed = 0
        self._reference = reference_of(utility, engine, reference, self.items)
        self._cache: Cache = {} if cache is None else cache
        self._key = self._common_key(hull)

    def scores(self, scored: Sequence[Scored]) -> list[Scores]:
        """In order; what the cache does not know is asked of the engine at once."""
        self.item_generations += len(scored) * len(self.items)
        keys = [self._key_of(one) for one in scored]
        unknown = {key: one for key, one in zip(keys, scored, strict=True) if key not in self._cache}
        found = dict(zip(unknown, self._measure(list(unknown.values())), strict=True))
        for key, result in found.items():
            if not result.unjudged:  # a judge that did not answer may answer next time
                self._cache[key] = dataclasses.asdict(result)
        return [found[key] if key in found else _from_cache(self._cache[key]) for key in keys]

    def outcomes(self, moves: Sequence[Move]) -> list[Outcome]:
        """The outcome of each move: what an optimiser is told."""
        scores = self.scores([Candidate(move.coefficients, self.space) for move in moves])
        return [Outcome.of(move, score.utility, score.error) for move, score in zip(moves, scores, strict=True)]

    def judged(self, told: Told) -> Scores:
        """The scores of replies about these items that somebody else asked for, an ensemble's say; whoever asked pays."""
        return scores_of(self.utility, self.items, told, self._reference)

    def __call__(self, coefficients: Coefficients) -> float:
        """The utility of one position."""
        return self.scores([Candidate(coefficients, self.space)])[0].utility

    def _measure(self, scored: list[Scored]) -> list[Scores]:
        if not scored:
            return []
        self.computed += len(scored) * len(self.items)
        return measure(self.utility, self.engine, scored, self.items, self._reference)

    def _common_key(self, hull: str) -> str:
        told = self._reference
        parts = [
            hull,
            self.utility.name,
            repr(self.utility),
            self.engine.identity,
            [item.digest for item in self.items],
            None if told is None else [list(likelihood) for likelihood in told.likelihoods] + list(told.answers),
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _key_of(self, scored: Scored) -> str:
        if isinstance(scored, Candidate):
            what: list[Any] = ["candidate", scored.space, *scored.coefficients]
        elif isinstance(scored, AdapterFolder):
            written = scored.folder.stat()  # another adapter at the same path is another model
            what = ["folder", str(scored.folder), written.st_mtime_ns]
        else:
            what = ["base"]
        return hashlib.sha256(json.dumps([self._key, what]).encode()).hexdigest()


def climb(
    optimizer: Generations,
    scorer: ScoresMoves,
    *,
    item_generations: int | None = None,
    on_generation: Callable[[Generations, list[Outcome]], None] | None = None,
) -> Best:
    """Ask, score, tell until the optimiser stops or the next generation would exceed ``item_generations``.

    ``on_generation`` is called after each generation with its outcomes. Raises ``ValueError`` where nothing could be
    scored within the budget.
    """
    while optimizer.should_stop is None:
        moves = optimizer.ask()
        planned = scorer.item_generations + len(moves) * len(scorer.items)
        if item_generations is not None and planned > item_generations:
            break
        outcomes = scorer.outcomes(moves)
        optimizer.tell(outcomes)
        if on_generation is not None:
            on_generation(optimizer, outcomes)
    if optimizer.best is None:
        raise ValueError(
            f"no position could be scored: {optimizer.should_stop or 'the budget is below one generation'}"
        )
    return optimizer.best


def _from_cache(value: Any) -> Scores:
    return Scores(tuple(value["values"]), value["utility"], value["malformed"])
