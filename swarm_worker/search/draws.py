"""Random numbers for a whole generation at once, each particle from a stream of its own.

The generator is counter-based (Philox, Salmon et al., SC 2011): block number i of a key is a pure function of (key, i).
The key is made of (seed, generation, purpose) and row i of the answer is blocks i*w ... i*w + w - 1, so a particle's
numbers depend on (seed, generation, particle) and on nothing else: not on how many particles there are, nor on who
failed or was left out. That is the same promise as one generator for each particle, at a twentieth of its time.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

Purpose = Literal["child", "velocity", "move", "dropout"]
_PURPOSES: dict[str, int] = {"child": 0, "velocity": 1, "move": 2, "dropout": 3}
_BLOCK = 4  # numbers of 64 bits in a block of Philox4x64


def uniforms(seed: int, generation: int, purpose: Purpose, particles: int, blocks: int = 1) -> np.ndarray:
    """U(0, 1) numbers, (particles, blocks, 4): row i belongs to particle i."""
    # The spawn key keeps purposes apart, and all of them from Generations.rng, which has none.
    sequence = np.random.SeedSequence([seed, generation], spawn_key=(_PURPOSES[purpose],))
    key = sequence.generate_state(2, np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).random((particles, blocks, _BLOCK))
