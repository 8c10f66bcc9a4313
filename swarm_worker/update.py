"""Updates that are no mix of factors: dW by module, merged entry by entry, written as an adapter of the rank asked for.

Most rivals of a search (SLERP, TIES, model stock) work on the experts' dW. What comes out has full rank, so it is cut to
what a service takes, as a mix from the hull is.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from swarm_worker.cut import Cut
from swarm_worker.hull import ExpertStack
from swarm_worker.peft_folder import write_peft_folder

Merge = Callable[[str, torch.Tensor], torch.Tensor]
"""From a module's name and the experts' updates of it, (n, d_out, d_in) float32, to one update, (d_out, d_in)."""

# Singular values below this share of a module's largest are float32's rounding, not rank.
NOISE = 1e-6


def updates(stack: ExpertStack, module: str) -> torch.Tensor:
    """Every expert's dW of one module, (n, d_out, d_in) float32; zeros where an expert leaves the module alone."""
    n = stack.n_experts
    return torch.stack([stack.update(module, [float(i == expert) for i in range(n)]) for expert in range(n)])


def write_merged(stack: ExpertStack, merge: Merge, folder: Path, *, max_rank: int | None) -> Cut:
    """Merge module by module and write the result as a PEFT LoRA folder, float32, scaling 1.

    Each module keeps its ``max_rank`` largest singular values; None: all that are more than rounding. One module's updates
    are in memory at a time. The folder appears complete or not at all; raises ``FileExistsError`` where there is one.
    """
    if max_rank is not None and max_rank < 1:
        raise ValueError(f"max_rank must be 1 or more, not {max_rank}")
    factors = []
    kept = total = 0.0
    for module in stack.modules:
        merged = merge(module, updates(stack, module))
        b, a, energy = nearest(merged, max_rank)
        factors.append((module, b, a))
        kept, total = kept + energy, total + float(merged.double().square().sum())
    rank = max(1, *(b.shape[1] for _, b, _ in factors))
    write_peft_folder(folder, factors, rank=rank, base_model=stack.base_model, dtype="float32")
    return Cut(rank, min(1.0, kept / total) if total > 0 else 1.0)


def nearest(update: torch.Tensor, max_rank: int | None) -> tuple[torch.Tensor, torch.Tensor, float]:
    """B and A of the nearest update of that rank (Eckart-Young), float32, and the squared norm that it keeps.

    dW = U S V^T, and U_k U_k^T dW is its best approximation of rank k: the eigenvectors of the smaller of dW dW^T and
    dW^T dW are enough, in half the time of an SVD.
    """
    wide = update.shape[0] <= update.shape[1]
    exact = (update if wide else update.T).double()
    energies, vectors = torch.linalg.eigh(exact @ exact.T)  # squared singular values, ascending
    above_noise = int((energies > NOISE**2 * energies[-1]).sum())
    rank = above_noise if max_rank is None else min(max_rank, above_noise)
    left = vectors[:, vectors.shape[1] - rank :].flip(1)
    # A singular vector is known but for its sign: fix it, or another LAPACK writes other bytes.
    largest = left.gather(0, left.abs().argmax(dim=0, keepdim=True)) if rank else left[:1]
    left = left * torch.where(largest < 0, -1.0, 1.0)
    right = left.T @ exact
    b, a = (left, right) if wide else (right.T, left.T)
    return b.float(), a.float(), float(right.square().sum())
