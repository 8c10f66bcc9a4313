"""DARE-TIES: sparsify each update at random, then merge the entries that agree in sign.

DARE, drop and rescale: Yu et al., arXiv:2311.03099. TIES: Yadav et al., arXiv:2306.01708; DARE's random drop takes the
place of its trimming by magnitude, as is usual for the pair.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from swarm_worker.baselines.contender import Single
from swarm_worker.baselines.setting import Found, Setting
from swarm_worker.dare import copy_rng, drop_and_rescale
from swarm_worker.scoring.engine import AdapterFolder
from swarm_worker.update import Merge, write_merged

# Densities, and scales of the merged update (TIES calls it lambda); the first ones where the budget is small.
GRID = [(density, scale) for density in (0.5, 0.7, 0.9, 0.3) for scale in (1.0, 0.5, 0.7, 1.5, 0.3)]


def dare_ties(setting: Setting) -> Found:
    """All experts with equal weights; density and scale are chosen on the search items. Costs an evaluation for each pair
    of the grid that the budget covers."""
    setting.require(1, "to choose a density")
    stack, n = setting.stack(), setting.n_experts
    grid = GRID[: setting.evaluations]
    folders = []
    for density, scale in grid:
        folders.append(AdapterFolder(setting.folder(f"dare_ties-{density:g}-{scale:g}")))
        merge = merged([1.0] * n, [density] * n, setting.seed, scale)
        write_merged(stack, merge, folders[-1].folder, max_rank=setting.max_rank)
    utilities = setting.utilities(folders)
    best = max(range(len(grid)), key=lambda i: utilities[i])
    note = f"density {grid[best][0]:g}, scale {grid[best][1]:g}, {utilities[best]:.4f} on the search items"
    return Found(Single(folders[best]), len(grid) * len(setting.items), note)


def merged(weights: Sequence[float], densities: Sequence[float], seed: int, scale: float | None = None) -> Merge:
    """DARE with each expert's density, then TIES with each expert's weight. ``scale``: times the disjoint mean; None: the
    sum of what agrees, in which the weights set the scale. The same entries are drawn at every call with a seed."""

    def merge(module: str, updates: torch.Tensor) -> torch.Tensor:
        sparse = torch.stack(
            [
                update if density >= 1 else drop_and_rescale(update, density, copy_rng(seed, expert, 0, module))
                for expert, (update, density) in enumerate(zip(updates, densities, strict=True))
            ]
        )
        agreed, weight = ties(sparse, weights)
        return agreed if scale is None else scale * torch.where(weight > 0, agreed / weight.clamp(min=1e-12), 0.0)

    return merge


def ties(updates: torch.Tensor, weights: Sequence[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Elect the sign of each entry by the weighted sum, then add up what agrees with it (section 4 of the paper).

    ``updates``: (n, d_out, d_in). Returns that sum and the weight of those that agree, both (d_out, d_in); their quotient is
    the paper's disjoint mean.
    """
    by_expert = torch.tensor(weights, dtype=updates.dtype).view(-1, 1, 1)
    weighted = updates * by_expert
    elected = weighted.sum(dim=0).sign()
    agrees = (weighted.sign() == elected) & (weighted != 0)
    return (weighted * agrees).sum(dim=0), (by_expert.abs() * agrees).sum(dim=0)
