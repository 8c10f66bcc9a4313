"""Twenty moved particles as adapters: from the stack in memory, against the reference code's files. See ``bench/hull.py``.

The same move of the same swarm of the same adapters both ways, in factors space, taken turn by turn: first compared (they
give the same adapters but for rounding), then timed, medians. Files are in the page cache; torch has one thread. The
reference's time is measured a particle at a time, on a few of them, and multiplied: its particles cost the same each, and
their files would fill a disk.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from bench.reference_update import Weights, move_particle
from swarm_worker.hull import ExpertStack

WEIGHTS = Weights(inertia=0.2, cognitive=0.3, social=0.4, repel=0.1, step=0.8)
ON_DISK = 3  # particles that the reference's way is timed on


class Swarm:
    """A swarm in coefficients, (N, n) each: positions and bests have rows that sum to 1, velocities to 0."""

    def __init__(self, particles: int, experts: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.x, self.p, other = rng.dirichlet(np.ones(experts), size=(3, particles))
        self.v = other - self.x
        self.best, self.worst = self.p[0], self.x[-1]

    def moved(self) -> np.ndarray:
        """Equations 1 and 2 of the paper, for all particles."""
        pulls = WEIGHTS.cognitive * (self.p - self.x) + WEIGHTS.social * (self.best - self.x)
        v = WEIGHTS.inertia * self.v + pulls + WEIGHTS.repel * (self.x - self.worst)
        return self.x + WEIGHTS.step * v

    def write(self, stack: ExpertStack, folder: Path) -> None:
        """Its first particles as the reference code keeps them: an adapter in a folder for each of these."""
        groups = {"now": self.x, "best": self.p, "velocity": self.v}
        places = {folder / str(i) / kind: rows[i] for kind, rows in groups.items() for i in range(ON_DISK)}
        places |= {folder / "global_best": self.best, folder / "global_worst": self.worst}
        for place, position in places.items():
            adapter = {}
            for module, mixed in stack.generation(position[None], "factors"):
                dtype = stack.stacked(module).a.dtype
                adapter[f"{module}.lora_A"] = mixed.a[0].to(dtype)
                adapter[f"{module}.lora_B"] = mixed.b[0].to(dtype).contiguous()
            place.mkdir(parents=True)
            save_file(adapter, place / "adapter_model.safetensors")


def time_materialising(folders: list[Path], scratch: Path, rounds: int, particles: int, seed: int) -> dict[str, Any]:
    """Milliseconds for all particles. ``materialise_ms``: factors space in a block that generations share, as a search
    uses it; ``fresh_ms``: in new memory each time; ``delta_ms``: delta space, module by module, as a forward pass asks."""
    stack = ExpertStack.load(folders)
    swarm = Swarm(particles, len(folders), seed)
    written = scratch / "swarm"
    swarm.write(stack, written)
    largest_error = _compare(stack, swarm, written)
    block = stack.block(particles, "factors")
    ways: dict[str, Callable[[], Any]] = {
        "materialise_ms": lambda: stack.materialise(swarm.moved(), "factors", block),
        "fresh_ms": lambda: stack.materialise(swarm.moved(), "factors"),
        "delta_ms": lambda: [None for _ in stack.generation(swarm.moved(), "delta")],
    }
    times: dict[str, list[float]] = {"reference_ms": [], **{name: [] for name in ways}}
    for turn in range(rounds * ON_DISK):
        move = partial(move_particle, written / str(turn % ON_DISK), written, WEIGHTS)
        times["reference_ms"].append(particles * _ms(move))
        for name, way in ways.items():
            times[name].append(_ms(way))
    shutil.rmtree(written)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "adapter_mb": (folders[0] / "adapter_model.safetensors").stat().st_size / 1e6,
        "experts": len(folders),
        **medians,
        "speedup": medians["reference_ms"] / medians["materialise_ms"],
        "largest_error": largest_error,
        "times": times,
    }


def _compare(stack: ExpertStack, swarm: Swarm, written: Path) -> float:
    """Move the particles on disk once, which also warms the page cache, and give the largest distance of a factor from the
    stack's, over its norm. In bfloat16 the reference's way rounds five times, so about a hundredth is right.

    Raises ``SystemExit`` where they are not the same adapters: then no time means anything.
    """
    for i in range(ON_DISK):
        move_particle(written / str(i), written, WEIGHTS)
    files = [load_file(written / str(i) / "now" / "adapter_model.safetensors") for i in range(ON_DISK)]
    largest = 0.0
    for module, mixed in stack.generation(swarm.moved()[:ON_DISK], "factors"):
        for adapter, a, b in zip(files, mixed.a, mixed.b, strict=True):
            for ours, theirs in ((a, adapter[f"{module}.lora_A"]), (b, adapter[f"{module}.lora_B"])):
                largest = max(largest, float(torch.dist(ours, theirs.float()) / ours.norm()))
    if largest > 0.03:
        raise SystemExit(f"the two ways give different adapters: relative distance {largest:.3f}")
    return largest


def _ms(act: Callable[[], Any]) -> float:
    start = time.perf_counter()
    kept = act()
    elapsed = time.perf_counter() - start
    del kept  # freeing is no part of it
    return 1000 * elapsed
