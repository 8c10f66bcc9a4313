"""Model Swarms: particle swarm search over LoRA experts (Feng et al., arXiv:2410.11163, section 3, algorithm 1).

Every rule of the paper keeps the sum of a position's coefficients at 1 and the sum of a velocity's at 0, in each layer
group. What each rule is called: ``swarm_worker.search.swarm_options``.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from swarm_worker.search.draws import uniforms
from swarm_worker.search.generations import Generations, require
from swarm_worker.search.optimizer import Coefficients
from swarm_worker.search.swarm_options import ModelSwarmsOptions

Scored = tuple[np.ndarray, float]  # a position, (D,), and its utility


class ModelSwarms(Generations):
    """A swarm of positions ``x`` with velocities ``v``, both (N, D); in each group rows of x sum to 1, rows of v to 0.

    A failed evaluation changes no best and no worst, and counts as a generation without a better personal best; one
    that dropout left out does not. A particle that never had a score has no personal best: it is neither pulled
    towards one nor restarted. Random numbers belong to (seed, generation, particle), so no outcome moves another
    particle's. With layer groups each group draws its own parents and its own r: else all would stay equal for ever.
    """

    name: ClassVar[str] = "model_swarms"
    options_type = ModelSwarmsOptions
    options: ModelSwarmsOptions

    def __init__(self, n_experts: int, seed: int, options: ModelSwarmsOptions, groups: int = 1) -> None:
        require(n_experts >= 2, "n_experts", n_experts, "2 or more: one expert alone spans a single point")
        super().__init__(n_experts, seed, options, groups)
        founders = len(self._founders())
        n_particles = max(options.particles, founders) if options.crossover else founders
        self._x = np.array(self._positions[:n_particles])
        self._v = self._first_velocities()
        self._personal_best = self._x.copy()
        self._personal_utility = np.full(n_particles, -np.inf)  # -inf: never scored
        self._without_better = np.zeros(n_particles, dtype=int)
        self._global_best: Scored | None = None
        self._global_worst: Scored | None = None
        self._step = options.step

    # The start

    def _founders(self) -> list[Coefficients]:
        """The starts that are particles."""
        if not self.options.soup_joins:
            return self.starts[: self.n_experts]
        return [start for start in self.starts if np.abs(self._grouped(start).sum(axis=1) - 1).max() < 1e-6]

    def _grouped(self, position: Coefficients | np.ndarray) -> np.ndarray:
        """(D,) or (N, D) -> (..., groups, n)."""
        flat = np.asarray(position)
        return flat.reshape(*flat.shape[:-1], self.groups, self.n_experts)

    def _first(self) -> list[Coefficients]:
        """Experts, then their crossover children up to N (algorithm 1, line 1), then starts that are only scored."""
        founders = self._founders()
        particles = [*founders]
        if self.options.crossover and len(founders) < self.options.particles:
            draws = uniforms(self.seed, 0, "child", self.options.particles, self.groups)
            for row in draws[len(founders) :]:
                parents = particles if self.options.crossover_parents == "any" else self.starts[: self.n_experts]
                particles.append(self._child(row, self._grouped(np.array(parents))))
        return [*particles, *(start for start in self.starts if start not in founders)]

    def _child(self, draws: np.ndarray, parents: np.ndarray) -> Coefficients:
        """w * one + (1 - w) * other, one and other two different parents. ``draws``: (groups, 4)."""
        groups = np.arange(self.groups)
        one = (draws[:, 0] * len(parents)).astype(int)
        other = (draws[:, 1] * (len(parents) - 1)).astype(int)
        other += other >= one
        weight = self.options.crossover_reach * draws[:, 2, None]
        child = weight * parents[one, groups] + (1.0 - weight) * parents[other, groups]
        return tuple(child.ravel().tolist())

    def _first_velocities(self) -> np.ndarray:
        """v_i = x_j - x_i towards a random other particle j (algorithm 1, line 2). Zero until the best is known."""
        if self.options.start_velocity != "random":
            return np.zeros_like(self._x)
        n_particles = len(self._x)
        other = (uniforms(self.seed, 0, "velocity", n_particles)[:, 0, 0] * (n_particles - 1)).astype(int)
        other += other >= np.arange(n_particles)
        return self._x[other] - self._x

    # What scores change

    def _learn(self, utilities: list[float | None]) -> None:
        """Personal bests, global best and global worst; of equals the earlier one stands."""
        known = np.array([np.nan if u is None else u for u in utilities[: len(self._x)]])
        scored = ~np.isnan(known)
        better = scored & (known > self._personal_utility)
        self._personal_best[better] = self._x[better]
        self._personal_utility[better] = known[better]
        self._without_better[self._counted()] += 1
        self._without_better[better] = 0
        if scored.any():
            self._learn_extremes(known)
        if self.generation == 0 and self.options.start_velocity == "best" and self._global_best is not None:
            self._v = self._global_best[0] - self._x

    def _learn_extremes(self, known: np.ndarray) -> None:
        best = int(np.nanargmax(known))
        if self._global_best is None or known[best] > self._global_best[1]:
            self._global_best = (self._x[best].copy(), float(known[best]))
        worst = int(np.nanargmin(known))
        if self.options.worst_tie == "last":
            worst = int(np.flatnonzero(known == known[worst])[-1])
        if self.options.worst == "now" or self._global_worst is None or known[worst] < self._global_worst[1]:
            self._global_worst = (self._x[worst].copy(), float(known[worst]))

    def _counted(self) -> np.ndarray:
        """Who may lose patience: all but those whom dropout left out (all of them, where ``dropout_counts``)."""
        counted = np.ones(len(self._x), dtype=bool)
        if not self.options.dropout_counts:
            counted[sorted(self._dropped)] = False
        return counted

    def _pass(self) -> None:
        if self.options.dropout_counts:
            self._without_better += 1
            self._generations_without_better += 1

    def _limit_reached(self) -> str | None:
        options = self.options
        if options.patience_counts_best and options.patience is not None and self.generation >= options.patience:
            waited = self._generations_without_better + 1
            if waited >= options.patience:
                return f"{options.patience} generations without a better best, its own among them"
        return super()._limit_reached()

    # Moves

    def _propose(self) -> list[Coefficients]:
        self._restart_the_stuck()
        self._move()
        self._step = max(self._step * self.options.step_decay, self.options.step_floor)
        return [tuple(position) for position in self._x.tolist()]

    def _drop(self, n_positions: int) -> frozenset[int]:
        """Dropout-K and dropout-N: who moves and is not scored in this generation."""
        dropout_k, dropout_n = self.options.dropout_k, self.options.dropout_n
        if dropout_k == 0 and dropout_n == 0:
            return frozenset()
        draws = uniforms(self.seed, self.generation, "dropout", n_positions)[:, 0]  # (N, 4)
        if draws[0, 1] < dropout_k:  # one draw for the generation, beside the first particle's own
            return frozenset(range(n_positions))
        return frozenset(np.flatnonzero(draws[:, 0] < dropout_n).tolist())

    def _restart_the_stuck(self) -> None:
        """Back to the personal best, at rest (algorithm 1), and on from there in this very generation."""
        if self.options.restart_patience is None:
            return
        stuck = (self._without_better >= self.options.restart_patience) & np.isfinite(self._personal_utility)
        self._x[stuck] = self._personal_best[stuck]
        self._v[stuck] = 0.0
        if not self.options.sticky_restart:
            self._without_better[stuck] = 0

    def _move(self) -> None:
        """v <- [r_v f_v v + r_p f_p (p - x) + r_g f_g (g - x) + r_w f_w (x - g_w)] / C;  x <- x + step * v  (eq. 1, 2),
        C the sum of the four weights, r ~ U(0, 1) per particle and generation."""
        x, v = self._grouped(self._x), self._grouped(self._v)  # (N, groups, n)
        inertia, cognitive, social, repel = self._weights()  # (N, groups, 1) each
        pull = self._grouped(self._personal_best) - x
        pull[np.isneginf(self._personal_utility)] = 0.0
        v = inertia * v + cognitive * pull
        if self._global_best is not None:
            v += social * (self._grouped(self._global_best[0]) - x)
        if self._global_worst is not None:
            v += repel * (x - self._grouped(self._global_worst[0]))
        self._v = v.reshape(self._x.shape)
        self._x = self._x + self._step * self._v

    def _weights(self) -> np.ndarray:
        """The four weights of a move, (4, N, groups, 1), of sum 1."""
        options, shape = self.options, (len(self._x), self.groups, 4)
        factors = np.array([options.inertia, options.cognitive, options.social, options.repel])
        drawn = uniforms(self.seed, self.generation, "move", *shape[:2]) if options.randomness else np.ones(shape)
        weights = drawn * factors
        weights /= np.maximum(weights.sum(axis=-1, keepdims=True), np.finfo(float).tiny)
        return np.moveaxis(weights, -1, 0)[..., None]

    # State

    def _state_to_json(self) -> dict[str, Any]:
        return {
            "positions": self._x.tolist(),
            "velocities": self._v.tolist(),
            "personal_best": self._personal_best.tolist(),
            "personal_utility": [None if np.isneginf(u) else u for u in self._personal_utility.tolist()],
            "without_better": self._without_better.tolist(),
            "global_best": _scored_to_json(self._global_best),
            "global_worst": _scored_to_json(self._global_worst),
            "step": self._step,
        }

    def _state_from_json(self, state: dict[str, Any]) -> None:
        self._x = np.array(state["positions"])
        self._v = np.array(state["velocities"])
        self._personal_best = np.array(state["personal_best"])
        self._personal_utility = np.array([-np.inf if u is None else u for u in state["personal_utility"]])
        self._without_better = np.array(state["without_better"], dtype=int)
        self._global_best = _scored_from_json(state["global_best"])
        self._global_worst = _scored_from_json(state["global_worst"])
        self._step = state["step"]


def _scored_to_json(scored: Scored | None) -> list[Any] | None:
    return None if scored is None else [scored[0].tolist(), scored[1]]


def _scored_from_json(value: list[Any] | None) -> Scored | None:
    return None if value is None else (np.array(value[0]), float(value[1]))
