"""SLERP (Shoemake, 1985): between the two best experts, along the arc instead of the chord."""

from __future__ import annotations

import torch

from swarm_worker.baselines.contender import Single
from swarm_worker.baselines.setting import Found, Setting
from swarm_worker.scoring.engine import AdapterFolder
from swarm_worker.update import Merge, write_merged

SHARES = (
    0.5,
    0.25,
    0.75,
    0.1,
    0.9,
    0.4,
    0.6,
    0.3,
    0.7,
)  # of the second expert; the first ones where the budget is small
COLLINEAR = 1e-4  # sine of an angle below which the arc is a straight line


def slerp(setting: Setting) -> Found:
    """Module by module on the updates dW of the two best experts; the share of the second is chosen on the search items.

    The ends of the arc are those experts, whose scores are known, so it is never below the best expert there. Costs an
    evaluation an expert and one a share, as many shares as the budget covers.
    """
    if setting.n_experts < 2:
        raise ValueError(f"slerp needs two experts or more, not {setting.n_experts}")
    (first, utility), (second, _) = setting.ranking()[:2]
    shares = SHARES[: setting.evaluations - setting.n_experts]
    stack = setting.stack()
    best, contender = 0.0, Single(AdapterFolder(setting.folders[first]))
    for share in shares:
        folder = AdapterFolder(setting.folder(f"slerp-{share:g}"))
        write_merged(stack, along(first, second, share), folder.folder, max_rank=setting.max_rank)
        score = setting.utilities([folder])[0]
        if score > utility:
            best, utility, contender = share, score, Single(folder)
    spent = (setting.n_experts + len(shares)) * len(setting.items)
    names = f"{1 - best:g} {setting.names[first]} ~ {best:g} {setting.names[second]}"
    return Found(contender, spent, f"{names} on the arc, {utility:.4f} on the search items")


def along(first: int, second: int, share: float) -> Merge:
    """The point of the arc from expert ``first`` (share 0) to expert ``second`` (share 1)."""

    def merge(module: str, updates: torch.Tensor) -> torch.Tensor:
        return interpolate(updates[first], updates[second], share)

    return merge


def interpolate(one: torch.Tensor, other: torch.Tensor, share: float) -> torch.Tensor:
    """sin((1 - t) w) / sin w * one + sin(t w) / sin w * other, w the angle between them; a straight line where w is 0 or pi,
    and where one of them is zero."""
    norms = one.double().norm() * other.double().norm()
    cosine = float((one.double() * other.double()).sum() / norms) if norms > 0 else 1.0
    angle = torch.arccos(torch.tensor(max(-1.0, min(1.0, cosine)), dtype=torch.float64))
    sine = float(torch.sin(angle))
    if sine < COLLINEAR:
        return (1 - share) * one + share * other
    return float(torch.sin((1 - share) * angle)) / sine * one + float(torch.sin(share * angle)) / sine * other
