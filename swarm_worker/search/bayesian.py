"""Bayesian optimisation in the space of coefficients: a Gaussian process of the utility, on scikit-learn, and expected
improvement (Jones et al., 1998), several positions at a time (kriging believer, Ginsbourger et al., 2010).

For few and costly scores of a smooth utility: on one core a fit takes 0.03 s at 100 scores, 1.6 s at 1000. The
coefficients are free, as in CMA-ES. scikit-learn is imported when the first fit is due, because that takes a second.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from swarm_worker.search.generations import Generations, Options, require
from swarm_worker.search.optimizer import Coefficients

_TOP, _KEPT, _ROUNDS = 5, 20, 3  # positions looked around first; those kept of a round; rounds


@dataclass(frozen=True, slots=True)
class BayesianOptions(Options):
    """``population``: positions a generation. ``bounds``: of each coefficient. ``draws``: how many positions are looked
    at, in the model, before one is proposed."""

    max_generations: int = 20
    population: int = 10
    bounds: tuple[float, float] = (-1.5, 2.5)
    draws: int = 500

    def __post_init__(self) -> None:
        # Not super(): slots=True makes a new class, which the bare form does not know.
        Options.__post_init__(self)
        object.__setattr__(self, "bounds", tuple(float(b) for b in self.bounds))
        require(self.population >= 1, "population", self.population, "1 or more")
        require(self.bounds[0] <= 0 and self.bounds[1] >= 1, "bounds", self.bounds, "(low, high) around 0 and 1")
        require(self.draws >= _KEPT, "draws", self.draws, f"{_KEPT} or more")


class Bayesian(Generations):
    """Each generation fits the model anew to all scores so far, so its state is nothing but them.

    A failed position counts as much as the worst one known: it is not proposed again.
    """

    name: ClassVar[str] = "bayesian"
    options_type = BayesianOptions
    options: BayesianOptions

    def __init__(self, n_experts: int, seed: int, options: BayesianOptions, groups: int = 1) -> None:
        super().__init__(n_experts, seed, options, groups)
        self._scored: list[Coefficients] = []
        self._utilities: list[float | None] = []

    def _learn(self, utilities: list[float | None]) -> None:
        self._scored += self._positions
        self._utilities += utilities

    def _propose(self) -> list[Coefficients]:
        lowest = min(u for u in self._utilities if u is not None)
        x = np.array(self._scored)  # (M, D)
        y = np.array([lowest if u is None else u for u in self._utilities])
        process = _Process(x, y)
        positions: list[Coefficients] = []
        for particle in range(self.options.population):
            position = self._most_promising(process, self.rng(particle))
            positions.append(tuple(position.tolist()))
            process.believe(position)
        return positions

    def _most_promising(self, process: _Process, rng: np.random.Generator) -> np.ndarray:
        """The highest expected improvement found by steps of all sizes from the top positions, then from the best found."""
        options = self.options
        top = process.top(_TOP)
        size = 10 ** rng.uniform(-1.5, -0.1, size=(options.draws, 1))
        # Some steps change few coefficients, some all: at least about one of them.
        changed = rng.random((options.draws, self.dimensions)) < np.maximum(
            rng.random((options.draws, 1)), 1.5 / self.dimensions
        )
        steps = size * changed * rng.standard_normal((options.draws, self.dimensions))
        looked_at = top[rng.integers(len(top), size=options.draws)] + steps
        for round_ in range(_ROUNDS):
            looked_at = np.clip(looked_at, *options.bounds)
            kept = looked_at[np.argsort(-process.expected_improvement(looked_at), kind="stable")[:_KEPT]]
            around = kept[rng.integers(len(kept), size=options.draws // 2)]
            looked_at = np.vstack([kept, around + 0.15 / (round_ + 1) * rng.standard_normal(around.shape)])
        return kept[0]

    def _state_to_json(self) -> dict[str, Any]:
        return {"positions": [list(x) for x in self._scored], "utilities": self._utilities}

    def _state_from_json(self, state: dict[str, Any]) -> None:
        self._scored = [tuple(float(c) for c in x) for x in state["positions"]]
        self._utilities = list(state["utilities"])


class _Process:
    """What is known of the utility everywhere: Matern 5/2 of one length in all directions, plus noise."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

        kernel = ConstantKernel(1.0, (1e-2, 1e3)) * Matern(1.0, (0.1, 20.0), nu=2.5) + WhiteKernel(0.05, (1e-5, 1.0))
        self._x, self._y = x, y
        self._process = GaussianProcessRegressor(kernel, normalize_y=True)
        with warnings.catch_warnings():
            # A length or a noise at its bound is an answer: flat, or free of noise.
            warnings.simplefilter("ignore", ConvergenceWarning)
            self._process.fit(x, y)
        self._fitted = self._process.kernel_
        self._noise = float(self._fitted.k2.noise_level) * float(np.var(y))
        self._mean = self._process.predict(x)

    def top(self, n: int) -> np.ndarray:
        """The n positions of the highest expected utility, which one lucky score does not decide."""
        return self._x[np.argsort(-self._mean, kind="stable")[:n]]

    def expected_improvement(self, positions: np.ndarray) -> np.ndarray:
        """E[max(u(x) - the highest expected utility, 0)] at each of (P, D) positions."""
        from scipy.stats import norm

        mean, deviation = self._process.predict(positions, return_std=True)
        deviation = np.sqrt(np.maximum(deviation**2 - self._noise, 1e-12))  # of the utility, not of a score of it
        better = mean - self._mean.max()
        return better * norm.cdf(better / deviation) + deviation * norm.pdf(better / deviation)

    def believe(self, position: np.ndarray) -> None:
        """Take the expected utility at ``position`` for its score, so that the next one is looked for elsewhere."""
        from sklearn.gaussian_process import GaussianProcessRegressor

        expected = self._process.predict(position[None])
        self._x, self._y = np.vstack([self._x, position]), np.append(self._y, expected)
        self._process = GaussianProcessRegressor(self._fitted, optimizer=None, normalize_y=True).fit(self._x, self._y)
        self._mean = np.append(self._mean, expected)
