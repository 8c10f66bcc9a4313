"""How the reference code moves a particle: adapters read from disk, combined, and written back. Our own imitation.

From BunsenFeng/model_swarm, `search.py` (particle_update) and the fast path of `merge.py` (lora_merge), at 63e6404: five
merges a particle, 12 reads and 5 writes of `adapter_model.safetensors`:

    p_x      = p - x               2 reads, 1 write
    g_x      = g - x               2, 1
    x_w      = x - g_w             2, 1
    velocity = a0 v + a1 p_x + a2 g_x + a3 x_w      4, 1
    now      = x + step * v        2, 1

Each tensor of the file apart (A and B: factors space), in the adapter's dtype, on CPU. Not imitated, to its favour: the
copies of folders that keep the personal and global bests, the logging, and the start of its worker processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Weights:
    """The normalised weights of one move (equation 1), and its step length."""

    inertia: float
    cognitive: float
    social: float
    repel: float
    step: float


def move_particle(particle: Path, swarm: Path, weights: Weights) -> None:
    """``particle`` has now, best, velocity; ``swarm`` global_best, global_worst: folders with an adapter each."""
    now, velocity = particle / "now", particle / "velocity"
    p_x, g_x, x_w = particle / "p_x", particle / "g_x", particle / "x_w"
    _merge([1, -1], [particle / "best", now], p_x)
    _merge([1, -1], [swarm / "global_best", now], g_x)
    _merge([-1, 1], [swarm / "global_worst", now], x_w)
    pulls = [weights.inertia, weights.cognitive, weights.social, weights.repel]
    _merge(pulls, [velocity, p_x, g_x, x_w], velocity)
    _merge([1, weights.step], [now, velocity], now)


def _merge(weights: Sequence[float], folders: Sequence[Path], target: Path) -> None:
    adapters = [load_file(folder / "adapter_model.safetensors") for folder in folders]
    mixed: Tensors = {}
    for weight, adapter in zip(weights, adapters, strict=True):
        for name, tensor in adapter.items():
            mixed[name] = weight * tensor if name not in mixed else mixed[name].add_(weight * tensor)
    target.mkdir(exist_ok=True)
    save_file(mixed, target / "adapter_model.safetensors")
