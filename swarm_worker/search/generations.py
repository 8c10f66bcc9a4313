"""The bookkeeping that every optimiser shares: which moves are out, which outcomes are in, what is best so far.

An optimiser adds two things: ``_learn`` (what the scores of a generation change) and ``_propose`` (the next positions).
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from swarm_worker.search.optimizer import UTILITY_DECIMALS, Best, Coefficients, Move, Outcome

# A generation without a single score ends the search, unless it was of fewer evaluations: one that is lost must not.
# Without a single start there is nothing to go on from.
_HOPELESS = 3


@dataclass(frozen=True, slots=True)
class Options:
    """What every optimiser can be told.

    ``starts``: positions scored in generation 0, beside each expert and the uniform soup; with layer groups either whole
    positions or n coefficients for every group. ``score_soup``: without it the soup is not scored and costs nothing.
    ``max_generations``: moves after generation 0. ``max_evaluations``: no generation begins that would exceed it.
    ``patience``: generations without a better best before the search stops; None: never.
    """

    starts: tuple[Coefficients, ...] = ()
    max_generations: int = 30
    max_evaluations: int | None = None
    patience: int | None = None
    score_soup: bool = True

    def __post_init__(self) -> None:
        starts = tuple(tuple(float(c) for c in start) for start in self.starts)
        object.__setattr__(self, "starts", starts)
        if not np.isfinite([c for start in starts for c in start]).all():
            raise ValueError("starts must be finite numbers")
        require(self.max_generations >= 0, "max_generations", self.max_generations, "0 or more")
        require(
            self.max_evaluations is None or self.max_evaluations > 0, "max_evaluations", self.max_evaluations, "> 0"
        )
        require(self.patience is None or self.patience > 0, "patience", self.patience, "1 or more, or None")
        require(isinstance(self.score_soup, bool), "score_soup", self.score_soup, "true or false")


def require(holds: bool, field: str, actual: object, expected: str) -> None:
    """Raise a ``ValueError`` that names the option, unless ``holds``."""
    if not holds:
        raise ValueError(f"{field} must be {expected}, not {actual!r}")


class Generations(ABC):
    """An ``Optimizer`` but for its ideas; see ``swarm_worker.search.optimizer.Optimizer`` for the contract.

    A position has ``dimensions = groups * n_experts`` coefficients: those of the first layer group, then the next.
    """

    name: ClassVar[str]
    options_type: ClassVar[type[Options]] = Options

    def __init__(self, n_experts: int, seed: int, options: Options, groups: int = 1) -> None:
        require(n_experts >= 1, "n_experts", n_experts, "1 or more")
        require(groups >= 1, "groups", groups, "1 or more")
        require(seed >= 0, "seed", seed, "0 or more")
        self.n_experts = n_experts
        self.groups = groups
        self.dimensions = n_experts * groups
        lengths = sorted({n_experts, self.dimensions})
        for start in options.starts:
            require(
                len(start) in lengths, "starts", start, f"positions of {' or '.join(map(str, lengths))} coefficients"
            )
        self.seed = seed
        self.options = options
        self.generation = 0
        self.evaluations = 0
        self.best: Best | None = None
        self.should_stop: str | None = None
        self._outcomes: dict[int, Outcome] = {}
        self._dropped: frozenset[int] = frozenset()
        self._generations_without_better = 0
        self._failures_in_a_row = 0  # counted by whole generations
        self._positions: list[Coefficients] = self._first()

    # What an optimiser adds

    def _first(self) -> list[Coefficients]:
        """Generation 0: the starts, or the starts and more."""
        return self.starts

    @abstractmethod
    def _learn(self, utilities: list[float | None]) -> None:
        """Take in the scores of ``self._positions`` (None: failed or dropped). At least one is a score, but where the
        generation was of one or two evaluations."""

    @abstractmethod
    def _propose(self) -> list[Coefficients]:
        """The positions of ``self.generation``, which has just begun."""

    def _drop(self, n_positions: int) -> frozenset[int]:
        """Those of this generation's positions that nobody is to score."""
        return frozenset()

    def _pass(self) -> None:  # noqa: B027 - most have nothing to do
        """A generation went by in which nothing was scored."""

    def _converged(self) -> str | None:
        """A reason of the optimiser's own to stop."""
        return None

    @abstractmethod
    def _state_to_json(self) -> dict[str, Any]: ...

    @abstractmethod
    def _state_from_json(self, state: dict[str, Any]) -> None: ...

    # What all of them share

    @property
    def starts(self) -> list[Coefficients]:
        """Each expert alone, the uniform soup where it is scored, then ``options.starts``; the same in every group."""
        experts = [tuple(row) for row in np.eye(self.n_experts).tolist()]
        soup = [(1.0 / self.n_experts,) * self.n_experts] if self.options.score_soup else []
        starts = [*experts, *soup, *self.options.starts]
        return [start * (self.dimensions // len(start)) for start in starts]

    def rng(self, particle: int) -> np.random.Generator:
        """The only source of randomness: a stream of its own for (seed, generation, particle)."""
        return np.random.default_rng(np.random.SeedSequence([self.seed, self.generation, particle]))

    def ask(self) -> list[Move]:
        if self.should_stop is not None:
            return []
        return [
            Move(self.generation, particle, position)
            for particle, position in enumerate(self._positions)
            if particle not in self._outcomes and particle not in self._dropped
        ]

    def tell(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            if outcome.generation > self.generation or outcome.particle < 0:
                raise ValueError(f"generation {outcome.generation}, particle {outcome.particle} was never asked for")
        current = [o for o in outcomes if o.generation == self.generation and self.should_stop is None]
        for outcome in map(_rounded, current):
            if outcome.particle >= len(self._positions) or outcome.particle in self._dropped:
                raise ValueError(f"generation {self.generation} has no particle {outcome.particle} to score")
            known = self._outcomes.get(outcome.particle)
            self._outcomes[outcome.particle] = outcome if known is None else _that_stands(known, outcome)
        if current and len(self._outcomes) + len(self._dropped) == len(self._positions):
            self._complete()

    def _complete(self) -> None:
        """Close the generation: note its best, learn from it, and begin the next one or stop."""
        outcomes = [self._outcomes.get(particle) for particle in range(len(self._positions))]
        utilities = [None if outcome is None else outcome.utility for outcome in outcomes]
        self.evaluations += len(self._outcomes)
        self._note_best(utilities)
        failed = all(utility is None for utility in utilities)
        self._failures_in_a_row = self._failures_in_a_row + len(self._outcomes) if failed else 0
        if failed and (self.generation == 0 or self._failures_in_a_row >= _HOPELESS):
            error = self._outcomes[min(self._outcomes)].error
            self.should_stop = f"every evaluation of generation {self.generation} failed: {error}"
            return
        self._learn(utilities)
        self.should_stop = self._limit_reached() or self._converged()
        while self.should_stop is None and not self._begin_next():
            self._pass()
            self.should_stop = self._limit_reached()

    def _begin_next(self) -> bool:
        """Move on by a generation, if the budget allows it. False: nothing of it is to be scored, so it is over."""
        self.generation += 1
        positions = self._propose()
        dropped = self._drop(len(positions))
        limit = self.options.max_evaluations
        if limit is not None and self.evaluations + len(positions) - len(dropped) > limit:
            self.generation -= 1
            self.should_stop = f"{self.evaluations} of at most {limit} evaluations are spent"
            return True
        self._positions, self._dropped, self._outcomes = positions, dropped, {}
        return len(dropped) < len(positions)

    def _note_best(self, utilities: list[float | None]) -> None:
        self._generations_without_better += 1
        for position, utility in zip(self._positions, utilities, strict=True):
            if utility is not None and (self.best is None or utility > self.best.utility):
                self.best = Best(position, utility, self.generation)
                self._generations_without_better = 0

    def _limit_reached(self) -> str | None:
        patience = self.options.patience
        if patience is not None and self._generations_without_better >= patience:
            return f"{patience} generations without a better best"
        if self.generation >= self.options.max_generations:
            return f"all {self.options.max_generations} generations are done"
        return None

    def to_json(self) -> dict[str, Any]:
        return {
            "optimizer": self.name,
            "n_experts": self.n_experts,
            "groups": self.groups,
            "seed": self.seed,
            "options": dataclasses.asdict(self.options) | {"starts": [list(start) for start in self.options.starts]},
            "generation": self.generation,
            "evaluations": self.evaluations,
            "generations_without_better": self._generations_without_better,
            "failures_in_a_row": self._failures_in_a_row,
            "best": None if self.best is None else self.best.to_json(),
            "should_stop": self.should_stop,
            "positions": [list(position) for position in self._positions],
            "dropped": sorted(self._dropped),
            "outcomes": [self._outcomes[particle].to_json() for particle in sorted(self._outcomes)],
            "state": self._state_to_json(),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        if value["optimizer"] != cls.name:
            raise ValueError(f"this is the state of {value['optimizer']!r}, not of {cls.name!r}")
        options = cls.options_type(**value["options"])
        search = cls(value["n_experts"], value["seed"], options, value.get("groups", 1))  # runs of before layer groups
        search.generation = value["generation"]
        search.evaluations = value["evaluations"]
        search._generations_without_better = value["generations_without_better"]
        search._failures_in_a_row = value.get("failures_in_a_row", 0)
        search.best = None if value["best"] is None else Best.from_json(value["best"])
        search.should_stop = value["should_stop"]
        search._positions = [tuple(float(c) for c in position) for position in value["positions"]]
        search._dropped = frozenset(value.get("dropped", ()))
        search._outcomes = {o["particle"]: Outcome.from_json(o) for o in value["outcomes"]}
        search._state_from_json(value["state"])
        return search


def _rounded(outcome: Outcome) -> Outcome:
    if outcome.utility is None:
        return outcome
    return Outcome(outcome.generation, outcome.particle, round(outcome.utility, UTILITY_DECIMALS), outcome.error)


def _that_stands(one: Outcome, other: Outcome) -> Outcome:
    """Of two outcomes for one move, the same one whichever came first: a score before a failure, the lower score."""

    def order(outcome: Outcome) -> tuple[bool, float, str]:
        return outcome.utility is None, outcome.utility or 0.0, outcome.error or ""

    return min(one, other, key=order)
