"""The experts themselves: the best one, and the best one with its update scaled."""

from __future__ import annotations

from swarm_worker.baselines.contender import Single
from swarm_worker.baselines.setting import Found, Setting
from swarm_worker.scoring.engine import AdapterFolder

SCALES = (0.25, 0.5, 0.75, 1.25, 1.5, 1.75, 2.0)  # beside 1, the expert as it is


def best_expert(setting: Setting) -> Found:
    """The expert that scores highest on the search items, as it is; the first of equals. Costs an evaluation an expert."""
    best, utility = setting.ranking()[0]
    spent = setting.n_experts * len(setting.items)
    note = f"{setting.names[best]}, {utility:.4f} on the search items"
    return Found(Single(AdapterFolder(setting.folders[best])), spent, note)


def scale_only(setting: Setting) -> Found:
    """A control: the best expert times the scale that does best on the search items, 1 among them.

    Part of what a search without a fixed sum tunes is plain scale; this is what scale alone brings. Costs an evaluation an
    expert and one a scale, as many scales (those nearest to 1 first) as the budget covers.
    """
    best, utility = setting.ranking()[0]
    scales = sorted(SCALES, key=lambda scale: abs(scale - 1))[: setting.evaluations - setting.n_experts]
    utilities = setting.utilities([setting.scaled(best, scale) for scale in scales])
    by_scale = {1.0: utility} | dict(zip(scales, utilities, strict=True))
    scale = max(by_scale, key=lambda scale: by_scale[scale])
    spent = (setting.n_experts + len(scales)) * len(setting.items)
    contender = setting.served(setting.scaled(best, scale).coefficients, "scale_only")
    return Found(contender, spent, f"{setting.names[best]} x {scale:g}, {by_scale[scale]:.4f} on the search items")
