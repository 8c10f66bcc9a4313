"""Model Stock (Jang et al., arXiv:2403.19522), on LoRA updates: how far from the base the average should be."""

from __future__ import annotations

import torch

from swarm_worker.baselines.contender import Single
from swarm_worker.baselines.setting import Found, Setting
from swarm_worker.scoring.engine import AdapterFolder
from swarm_worker.update import write_merged


def model_stock(setting: Setting) -> Found:
    """Module by module, the experts' average times the ratio that the angle between them gives, the base as its anchor.

    Costs nothing: nothing is chosen. Experts trained apart on different tasks are almost at right angles, and the ratio is
    then near 0: it is made for repeated trainings on one task.
    """
    folder = setting.folder("model_stock")
    ratios: list[float] = []

    def merge(module: str, updates: torch.Tensor) -> torch.Tensor:
        ratios.append(ratio(updates))
        return ratios[-1] * updates.mean(dim=0)

    write_merged(setting.stack(), merge, folder, max_rank=setting.max_rank)
    note = f"the average of {setting.n_experts} experts x {min(ratios):.3f} to {max(ratios):.3f} by module"
    return Found(Single(AdapterFolder(folder)), 0, note)


def ratio(updates: torch.Tensor) -> float:
    """t = n cos / (1 + (n - 1) cos), equation 7 of the paper, cos the mean over pairs of (n, d_out, d_in) updates; between
    0, the base, and 1, the average. Experts that leave the module alone have no angle and do not count."""
    flat = updates.flatten(1).double()
    unit = flat / flat.norm(dim=1, keepdim=True).clamp(min=1e-30)
    present = int((flat.norm(dim=1) > 0).sum())
    if present < 2:
        return 1.0  # a single expert is its own average
    pairs = present * (present - 1)
    cosine = float(((unit @ unit.T).sum() - present) / pairs)
    cosine = max(0.0, min(1.0, cosine))  # beyond a right angle the equation leaves the segment
    return present * cosine / (1 + (present - 1) * cosine)
