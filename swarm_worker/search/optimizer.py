"""What every search is: moves asked for, outcomes told, a state that is a value.

The caller owns the loop, and owns every side effect::

    search = make("cma_es", n_experts=6, seed=1)
    while search.should_stop is None:
        search.tell([evaluate(move) for move in search.ask()])
    print(search.best)

Pure: numpy and the standard library only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

Coefficients = tuple[float, ...]

# Two scores of one position differ in the last bits when its items were batched differently, and a search must not
# turn on that: utilities are rounded to this many decimals before they are compared.
UTILITY_DECIMALS = 6


@dataclass(frozen=True, slots=True)
class Move:
    """A position to be scored: ``coefficients``, one number per expert, for each layer group in turn."""

    generation: int
    particle: int
    coefficients: Coefficients

    def to_json(self) -> dict[str, Any]:
        return {
            "generation": self.generation,
            "particle": self.particle,
            "coefficients": list(self.coefficients),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(
            generation=int(value["generation"]),
            particle=int(value["particle"]),
            coefficients=tuple(float(c) for c in value["coefficients"]),
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a worker reports about one position. ``utility is None``: the evaluation failed, see ``error``.

    Raises ``ValueError`` for a utility that is not finite: a NaN would win or lose every comparison by accident.
    """

    generation: int
    particle: int
    utility: float | None
    error: str | None = None

    def __post_init__(self) -> None:
        if self.utility is not None and not math.isfinite(self.utility):
            raise ValueError(f"utility must be finite or None, not {self.utility}; Outcome.of() makes it a failure")

    @classmethod
    def of(cls, move: Move, utility: float | None, error: str | None = None) -> Self:
        """The outcome of ``move``, its utility rounded; one that is not finite becomes a failure that says so."""
        if utility is not None and not math.isfinite(utility):
            return cls(move.generation, move.particle, None, error or f"the utility was {utility}")
        rounded = None if utility is None else round(utility, UTILITY_DECIMALS)
        return cls(move.generation, move.particle, rounded, error)

    def to_json(self) -> dict[str, Any]:
        return {
            "generation": self.generation,
            "particle": self.particle,
            "utility": self.utility,
            "error": self.error,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        utility = value["utility"]
        return cls(
            generation=int(value["generation"]),
            particle=int(value["particle"]),
            utility=None if utility is None else float(utility),
            error=value.get("error"),
        )


@dataclass(frozen=True, slots=True)
class Best:
    """The best position of all complete generations; of equals, the one seen first (lowest particle)."""

    coefficients: Coefficients
    utility: float
    generation: int

    def to_json(self) -> dict[str, Any]:
        return {
            "coefficients": list(self.coefficients),
            "utility": self.utility,
            "generation": self.generation,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(tuple(float(c) for c in value["coefficients"]), float(value["utility"]), int(value["generation"]))


class Optimizer(Protocol):
    """A search of the hull.

    Every implementation guarantees, and tests/contract/test_optimizer.py checks: generation 0 scores the starts (each
    expert alone, and the uniform soup unless ``score_soup`` is off; the same in every layer group); ``ask`` repeats its
    answer until something new is told; the order, the repetition and the grouping of outcomes change nothing; neither
    does going through JSON between any two calls; a failed evaluation is a case that the search survives; all
    randomness comes from (seed, generation, particle).
    """

    name: ClassVar[str]
    generation: int

    def ask(self) -> list[Move]:
        """The moves of this generation whose outcome is not known yet; empty once the search has stopped.

        A particle that dropout leaves out of a generation is no move: there is nothing to score or to pay for.
        """
        ...

    def tell(self, outcomes: list[Outcome]) -> None:
        """Take outcomes in; the generation is complete, and the next one proposed, when all its particles are known.

        Outcomes of earlier generations are ignored (a queue delivers twice). Of two outcomes for one move a score beats
        a failure, and the lower of two scores stands. Raises ``ValueError`` for a move that was never asked for.
        """
        ...

    @property
    def should_stop(self) -> str | None:
        """Why the search is over, in words; None while it goes on."""
        ...

    @property
    def best(self) -> Best | None: ...

    @property
    def evaluations(self) -> int:
        """How many positions the complete generations have cost, failures included."""
        ...

    def to_json(self) -> dict[str, Any]: ...

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self: ...
