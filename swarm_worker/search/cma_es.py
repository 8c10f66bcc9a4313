"""CMA-ES in the space of coefficients (Hansen, arXiv:1604.00772), on the `cmaes` library.

The coefficients are free: their sum is not fixed, so the scale of the update is searched too, which is the same as
having the base model among the experts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from swarm_worker.search.generations import Generations, Options, require
from swarm_worker.search.optimizer import Coefficients

if TYPE_CHECKING:
    from cmaes import CMA


@dataclass(frozen=True, slots=True)
class CmaEsOptions(Options):
    """``sigma0``: the first standard deviation of a coefficient. ``population``: positions a generation; ``bounds``:
    of each coefficient, kept by drawing again."""

    max_generations: int = 25  # on the starter pack the test utility is flat beyond some 200 evaluations (docs/log.md)
    sigma0: float = 0.3
    population: int = 10
    bounds: tuple[float, float] = (-1.5, 2.5)

    def __post_init__(self) -> None:
        # Not super(): slots=True makes a new class, which the bare form does not know.
        Options.__post_init__(self)
        object.__setattr__(self, "bounds", tuple(float(b) for b in self.bounds))
        require(self.sigma0 > 0, "sigma0", self.sigma0, "> 0")
        require(self.population >= 4, "population", self.population, "4 or more")
        require(self.bounds[0] <= 0 and self.bounds[1] >= 1, "bounds", self.bounds, "(low, high) around 0 and 1")


class CmaEs(Generations):
    """Generation 0 scores the starts; the distribution begins at the best of them.

    Its state is what it was told: replaying that through the library gives mean, step size and covariance again, to
    the bit. A failed position ranks last.
    """

    name: ClassVar[str] = "cma_es"
    options_type = CmaEsOptions
    options: CmaEsOptions

    def __init__(self, n_experts: int, seed: int, options: CmaEsOptions, groups: int = 1) -> None:
        super().__init__(n_experts, seed, options, groups)
        self._mean0: Coefficients | None = None
        self._told: list[tuple[list[Coefficients], list[float | None]]] = []
        self._begun: CMA | None = None

    def _learn(self, utilities: list[float | None]) -> None:
        if self.generation == 0 and self.best is not None:  # there is one: at least one utility is not None
            self._start_at(self.best.coefficients)
        else:
            self._feed(self._positions, utilities)

    def _start_at(self, mean0: Coefficients) -> None:
        from cmaes import CMA  # here, because it imports scipy's statistics, which takes a second

        self._mean0 = mean0
        low, high = self.options.bounds
        self._begun = CMA(
            mean=np.clip(np.array(mean0), low, high),
            sigma=self.options.sigma0,
            bounds=np.array([[low, high]] * self.dimensions),
            population_size=self.options.population,
            seed=self.seed % 2**32,
        )

    @property
    def _cma(self) -> CMA:
        if self._begun is None:
            raise RuntimeError("the distribution begins when generation 0 is told")
        return self._begun

    def _feed(self, positions: list[Coefficients], utilities: list[float | None]) -> None:
        self._told.append((positions, utilities))
        lowest = min(utility for utility in utilities if utility is not None)
        # The library minimises, and sorts by value with ties in order: lowest particle first.
        values = [1.0 - lowest if utility is None else -utility for utility in utilities]
        self._cma.tell([(np.array(x), value) for x, value in zip(positions, values, strict=True)])

    def _propose(self) -> list[Coefficients]:
        positions = []
        for particle in range(self.options.population):
            self._cma.reseed_rng(int(self.rng(particle).integers(2**32)))
            positions.append(tuple(self._cma.ask().tolist()))
        return positions

    def _converged(self) -> str | None:
        return "CMA-ES has converged" if self._told and self._cma.should_stop() else None

    def _state_to_json(self) -> dict[str, Any]:
        return {
            "mean0": None if self._mean0 is None else list(self._mean0),
            "told": [{"positions": [list(x) for x in xs], "utilities": utilities} for xs, utilities in self._told],
        }

    def _state_from_json(self, state: dict[str, Any]) -> None:
        if state["mean0"] is None:
            return
        self._start_at(tuple(float(c) for c in state["mean0"]))
        for generation in state["told"]:
            self._feed([tuple(float(c) for c in x) for x in generation["positions"]], generation["utilities"])
