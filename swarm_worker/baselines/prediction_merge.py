"""Prediction merge: every expert answers, the majority decides."""

from __future__ import annotations

from swarm_worker.baselines.contender import Ensemble, Equal
from swarm_worker.baselines.setting import Found, Setting


def prediction_merge(setting: Setting) -> Found:
    """The plurality of the experts' answers; where likelihoods are asked for, the mean of their probabilities. Costs
    nothing to find, and as many models as there are experts to answer."""
    members = tuple(setting.expert(expert) for expert in range(setting.n_experts))
    note = f"the plurality of {setting.n_experts} experts, each answer at the cost of all"
    return Found(Ensemble(members, Equal(len(members))), 0, note)
