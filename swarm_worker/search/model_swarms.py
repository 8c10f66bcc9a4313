"""Model Swarms: particle swarm search over LoRA experts (Feng et al., arXiv:2410.11163, section 3, algorithm 1).

Every rule of the paper keeps the sum of a position's coefficients at 1 and the sum of a velocity's at 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from swarm_worker.search.generations import Generations, Options, require
from swarm_worker.search.optimizer import Coefficients


@dataclass(frozen=True, slots=True)
class ModelSwarmsOptions(Options):
    """The paper's hyperparameters under the paper's names; its search draws them from grids (its appendix A).

    ``particles``: N. ``inertia``, ``cognitive``, ``social``, ``repel``: the factors f_v, f_p, f_g, f_w. ``step``,
    ``step_decay``, ``step_floor``: lambda, its factor a generation, and where it stays (the floor is the reference
    code's, not the paper's). ``crossover_reach``: a child is w * one + (1 - w) * other with w ~ U(0, reach); the paper
    says 1, its code 2. ``restart_patience``: generations without a better personal best before a particle goes back to
    it. ``worst``: "ever", the worst position of the whole search (paper), or "now", that of the last generation.
    ``soup_joins``: the uniform soup and ``starts`` are particles too; without it they are only scored, as is a start
    whose coefficients do not sum to 1.
    """

    max_generations: int = 50
    patience: int | None = 10
    particles: int = 20
    inertia: float = 0.2
    cognitive: float = 0.3
    social: float = 0.4
    repel: float = 0.05
    step: float = 1.0
    step_decay: float = 0.95
    step_floor: float = 0.1
    crossover_reach: float = 1.0
    restart_patience: int = 5
    worst: Literal["ever", "now"] = "now"
    soup_joins: bool = True

    def __post_init__(self) -> None:
        # Not super(): slots=True makes a new class, which the bare form does not know.
        Options.__post_init__(self)
        require(self.particles >= 2, "particles", self.particles, "2 or more")
        for field in ("inertia", "cognitive", "social", "repel", "step_floor"):
            require(getattr(self, field) >= 0, field, getattr(self, field), "0 or more")
        require(self.inertia + self.cognitive + self.social + self.repel > 0, "inertia", self.inertia, "> 0 if alone")
        require(self.step > 0, "step", self.step, "> 0")
        require(0 < self.step_decay <= 1, "step_decay", self.step_decay, "in (0, 1]")
        require(self.crossover_reach > 0, "crossover_reach", self.crossover_reach, "> 0")
        require(self.restart_patience >= 1, "restart_patience", self.restart_patience, "1 or more")
        require(self.worst in ("ever", "now"), "worst", self.worst, "one of 'ever', 'now'")


PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"crossover_reach": 1.0, "worst": "ever", "soup_joins": False},
    "shoal": {},
}


class ModelSwarms(Generations):
    """A swarm of positions ``x`` with velocities ``v``, both (N, n); rows of x sum to 1, rows of v to 0.

    A failed evaluation changes no best and no worst, and counts as a generation without a better personal best. A
    particle that never had a score has no personal best, and is not pulled towards one. Scores never move
    (seed, generation, particle) streams, so a failure changes no other particle's draw.
    """

    name: ClassVar[str] = "model_swarms"
    options_type = ModelSwarmsOptions
    options: ModelSwarmsOptions

    def __init__(self, n_experts: int, seed: int, options: ModelSwarmsOptions) -> None:
        require(n_experts >= 2, "n_experts", n_experts, "2 or more: one expert alone spans a single point")
        super().__init__(n_experts, seed, options)
        n_particles = max(options.particles, len(self._founders()))
        self._x = np.array(self._positions[:n_particles])
        self._v = self._first_velocities()
        self._personal_best = self._x.copy()
        self._personal_utility: list[float | None] = [None] * n_particles
        self._without_better = [0] * n_particles
        self._global_best: tuple[list[float], float] | None = None
        self._global_worst: tuple[list[float], float] | None = None
        self._step = options.step

    def _founders(self) -> list[Coefficients]:
        """The starts that are particles."""
        if not self.options.soup_joins:
            return self.starts[: self.n_experts]
        return [start for start in self.starts if abs(sum(start) - 1) < 1e-6]

    def _first(self) -> list[Coefficients]:
        """Experts, then their crossover children up to N (algorithm 1, line 1), then starts that are only scored."""
        founders = self._founders()
        children = [self._child(particle) for particle in range(len(founders), self.options.particles)]
        return [*founders, *children, *(start for start in self.starts if start not in founders)]

    def _child(self, particle: int) -> Coefficients:
        rng = self.rng(particle)
        one, other = rng.choice(self.n_experts, size=2, replace=False)
        weight = rng.uniform(0.0, self.options.crossover_reach)
        position = np.zeros(self.n_experts)
        position[one], position[other] = weight, 1.0 - weight
        return tuple(position.tolist())

    def _first_velocities(self) -> np.ndarray:
        """v_i = x_j - x_i towards a random other particle j (algorithm 1, line 2)."""
        n_particles = len(self._x)
        velocities = np.empty_like(self._x)
        for particle in range(n_particles):
            # A stream of its own: the particle's number is moved past those that _child draws from.
            other = int(self.rng(n_particles + particle).integers(n_particles - 1))
            velocities[particle] = self._x[other + (other >= particle)] - self._x[particle]
        return velocities

    def _learn(self, utilities: list[float | None]) -> None:
        """Personal bests, global best and global worst; equals keep the earlier one."""
        if self.options.worst == "now":
            self._global_worst = None
        for particle, utility in enumerate(utilities[: len(self._x)]):
            position = self._x[particle]
            known = self._personal_utility[particle]
            self._without_better[particle] += 1
            if utility is None:
                continue
            if known is None or utility > known:
                self._personal_best[particle] = position
                self._personal_utility[particle] = utility
                self._without_better[particle] = 0
            if self._global_best is None or utility > self._global_best[1]:
                self._global_best = (position.tolist(), utility)
            if self._global_worst is None or utility < self._global_worst[1]:
                self._global_worst = (position.tolist(), utility)

    def _propose(self) -> list[Coefficients]:
        for particle in range(len(self._x)):
            self._restart_if_stuck(particle)
            self._move(particle)
        self._step = max(self._step * self.options.step_decay, self.options.step_floor)
        return [tuple(position) for position in self._x.tolist()]

    def _restart_if_stuck(self, particle: int) -> None:
        """Back to the personal best, at rest (algorithm 1). The count begins anew: the reference code's does not, so
        there a stuck particle restarts in every generation."""
        if self._without_better[particle] >= self.options.restart_patience:
            self._x[particle] = self._personal_best[particle]
            self._v[particle] = 0.0
            self._without_better[particle] = 0

    def _move(self, particle: int) -> None:
        """v <- [r_v f_v v + r_p f_p (p - x) + r_g f_g (g - x) + r_w f_w (x - g_w)] / C;  x <- x + step * v  (eq. 1, 2),
        C the sum of the four weights, r ~ U(0, 1) per particle and generation."""
        x, v = self._x[particle], self._v[particle]
        options = self.options
        weights = self.rng(particle).random(4) * (options.inertia, options.cognitive, options.social, options.repel)
        total = weights.sum()
        if total > 0:
            inertia, cognitive, social, repel = weights / total
            v = inertia * v + cognitive * (self._personal_best[particle] - x)
            if self._global_best is not None:
                v = v + social * (np.array(self._global_best[0]) - x)
            if self._global_worst is not None:
                v = v + repel * (x - np.array(self._global_worst[0]))
        self._v[particle] = v
        self._x[particle] = x + self._step * v

    def _state_to_json(self) -> dict[str, Any]:
        return {
            "positions": self._x.tolist(),
            "velocities": self._v.tolist(),
            "personal_best": self._personal_best.tolist(),
            "personal_utility": list(self._personal_utility),
            "without_better": list(self._without_better),
            "global_best": self._global_best,
            "global_worst": self._global_worst,
            "step": self._step,
        }

    def _state_from_json(self, state: dict[str, Any]) -> None:
        self._x = np.array(state["positions"])
        self._v = np.array(state["velocities"])
        self._personal_best = np.array(state["personal_best"])
        self._personal_utility = list(state["personal_utility"])
        self._without_better = list(state["without_better"])
        self._global_best = _scored_position(state["global_best"])
        self._global_worst = _scored_position(state["global_worst"])
        self._step = state["step"]


def _scored_position(value: Any) -> tuple[list[float], float] | None:
    return None if value is None else (list(value[0]), value[1])
