"""A particle is its coefficients: the published update on tensors, and the same on a few numbers, are one search."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm_worker.search import Outcome, make
from swarm_worker.search.draws import uniforms

FACTORS = np.array([0.2, 0.3, 0.4, 0.05])  # velocity, personal best, global best, global worst


class TensorSwarm:
    """Algorithm 1 of arXiv:2410.11163 on whole tensors, the way the reference code goes about it: every particle is a
    (P,) tensor of all its parameters, and so are its velocity and its personal best. ``quirks``: as that code has it."""

    def __init__(self, experts: np.ndarray, seed: int, particles: int, *, quirks: bool) -> None:
        self.seed, self.quirks, self.x = seed, quirks, list(experts)
        for draw in uniforms(seed, 0, "child", particles)[len(experts) :, 0]:
            parents = self.x if quirks else list(experts)
            one, other = int(draw[0] * len(parents)), int(draw[1] * (len(parents) - 1))
            other += other >= one
            weight = draw[2] * (2.0 if quirks else 1.0)
            self.x = [*self.x, weight * parents[one] + (1 - weight) * parents[other]]
        self.v = []
        for i, draw in enumerate(uniforms(seed, 0, "velocity", particles)[:, 0]):
            other = int(draw[0] * (particles - 1))
            self.v.append(self.x[other + (other >= i)] - self.x[i])
        self.history: list[list[float]] = [[] for _ in self.x]
        self.personal, self.best, self.worst, self.waited, self.step = list(self.x), None, None, [0] * particles, 1.0

    def learn(self, utilities: list[float]) -> None:
        for i, utility in enumerate(utilities):
            self.waited[i] += 1
            if not self.history[i] or utility > max(self.history[i]):
                self.personal[i], self.waited[i] = self.x[i], 0
            self.history[i].append(utility)
        if self.best is None or max(utilities) > self.best[1]:
            self.best = (self.x[utilities.index(max(utilities))], max(utilities))
        if self.worst is None or min(utilities) < self.worst[1]:
            tied = [i for i, utility in enumerate(utilities) if utility == min(utilities)]
            self.worst = (self.x[tied[-1 if self.quirks else 0]], min(utilities))

    def move(self, generation: int) -> None:
        for i, draw in enumerate(uniforms(self.seed, generation, "move", len(self.x))[:, 0]):
            if self.waited[i] >= (6 if self.quirks else 5):
                self.x[i], self.v[i] = self.personal[i], 0 * self.x[i]
                self.waited[i] = self.waited[i] if self.quirks else 0
            a = draw * FACTORS / (draw * FACTORS).sum()
            pulls = (self.v[i], self.personal[i] - self.x[i], self.best[0] - self.x[i], self.x[i] - self.worst[0])
            self.v[i] = sum(weight * pull for weight, pull in zip(a, pulls, strict=True))
            self.x[i] = self.x[i] + self.step * self.v[i]
        self.step = max(0.95 * self.step, 0.1 if self.quirks else 0.0)


def adapters(seed: int, n: int, rank: int = 2, width: int = 5, modules: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """lora_A (n, modules, rank, width) and lora_B (n, modules, width, rank) of n random experts."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, modules, rank, width)), rng.standard_normal((n, modules, width, rank))


@pytest.mark.parametrize("space", ["factors", "delta"])
@pytest.mark.parametrize("preset", ["paper", "reference"])
@settings(deadline=None, max_examples=20)
@given(
    n=st.integers(2, 6),
    seed=st.integers(0, 2**40),
    rounds=st.lists(st.lists(st.integers(0, 20), min_size=8, max_size=8), min_size=8, max_size=14),
)
def test_positions_are_the_tensor_recursion(
    space: str, preset: str, n: int, seed: int, rounds: list[list[int]]
) -> None:
    """In both spaces, at every step and whatever the scores (ties too), combining the experts' tensors by a particle's
    coefficients gives what the update on tensors gives, to 1e-6."""
    lora_a, lora_b = adapters(seed % 1000, n)
    if space == "factors":
        experts = np.concatenate([lora_a.reshape(n, -1), lora_b.reshape(n, -1)], axis=1)
    else:
        experts = (lora_b @ lora_a).reshape(n, -1)
    tensors = TensorSwarm(experts, seed, particles=8, quirks=preset == "reference")
    search = make("model_swarms", n_experts=n, seed=seed, preset=preset, particles=8, patience=None)
    for generation, scores in enumerate(rounds):
        moves = search.ask()
        for move in moves:
            combined = np.array(move.coefficients) @ experts
            np.testing.assert_allclose(combined, tensors.x[move.particle], rtol=1e-6, atol=1e-6)
        utilities = [score / 20 for score in scores]
        search.tell([Outcome.of(move, utilities[move.particle]) for move in moves])
        tensors.learn(utilities)
        tensors.move(generation + 1)
