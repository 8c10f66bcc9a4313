"""Random search in the hull: the control that a claim for any other search is measured against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from swarm_worker.search.generations import Generations, Options, require
from swarm_worker.search.optimizer import Coefficients


@dataclass(frozen=True, slots=True)
class RandomSearchOptions(Options):
    """``population``: draws a generation. ``bounds``: of each coefficient. ``sum_to_one``: stay where a swarm stays.

    ``spread``: the standard deviation of the Gaussian draws; ``scale``: the range of a mix's sum, None for half the experts
    (a mix that takes half of them whole), and 2.5 at least: a control that could not reach where searches end would be weak.
    """

    population: int = 10
    bounds: tuple[float, float] = (-1.5, 2.5)
    spread: float = 0.5
    scale: tuple[float, float] | None = None
    sum_to_one: bool = False

    def __post_init__(self) -> None:
        # Not super(): slots=True makes a new class, which the bare form does not know.
        Options.__post_init__(self)
        object.__setattr__(self, "bounds", tuple(float(b) for b in self.bounds))
        if self.scale is not None:
            object.__setattr__(self, "scale", tuple(float(s) for s in self.scale))
            require(0 < self.scale[0] <= self.scale[1], "scale", self.scale, "(low, high) with 0 < low <= high")
        require(self.population >= 1, "population", self.population, "1 or more")
        require(self.bounds[0] < self.bounds[1], "bounds", self.bounds, "(low, high) with low < high")
        require(self.spread > 0, "spread", self.spread, "> 0")


class RandomSearch(Generations):
    """Draws that never look at a score, half of each kind: neither guess about where good mixes lie can fail it.

    - *mixes*: a Dirichlet(1) draw (uniform on the simplex) times a sum drawn from U(``scale``);
    - *excursions*: a Gaussian step of ``spread`` from a start chosen at random, which reaches negative coefficients.

    Both are clipped to ``bounds``. With ``sum_to_one`` the sum is 1 and the steps are centred, as in Model Swarms. Each
    layer group has draws of its own.
    """

    name: ClassVar[str] = "random_search"
    options_type = RandomSearchOptions
    options: RandomSearchOptions

    def _learn(self, utilities: list[float | None]) -> None:
        """Nothing: that is the point."""

    def _propose(self) -> list[Coefficients]:
        return [self._draw(particle) for particle in range(self.options.population)]

    def _draw(self, particle: int) -> Coefficients:
        rng = self.rng(particle)
        shape = (self.groups, self.n_experts)
        if rng.random() < 0.5:
            widest = (0.5, max(2.5, self.n_experts / 2))
            free = not self.options.sum_to_one
            total = rng.uniform(*(self.options.scale or widest), size=(self.groups, 1)) if free else 1.0
            position = total * rng.dirichlet(np.ones(self.n_experts), size=self.groups)
        else:
            start = np.array(self.starts[rng.integers(len(self.starts))]).reshape(shape)
            step = self.options.spread * rng.standard_normal(shape)
            position = start + (step - step.mean(axis=1, keepdims=True) if self.options.sum_to_one else step)
        if not self.options.sum_to_one:  # clipping would break the sum
            position = np.clip(position, *self.options.bounds)
        return tuple(position.ravel().tolist())

    def _state_to_json(self) -> dict[str, Any]:
        return {}

    def _state_from_json(self, state: dict[str, Any]) -> None:
        """Nothing beside what every search keeps."""
