"""When a run starts by itself: every so often, if there is enough new feedback."""

from __future__ import annotations

from registry.adaptation import begin
from registry.errors import ShoalError
from registry.policy import Policy
from registry.records import Adapter, Run, RunSpec, now
from registry.registry import Registry
from swarm_worker.settings import WorkerSettings

SCHEDULE = "schedule"
"""Who a run that starts by itself says it was started by."""


def start_due_runs(registry: Registry, settings: WorkerSettings) -> list[Run]:
    """Begin a run for each adapter that is due. Called by every tick; two at once begin one run (RunGoing)."""
    policies = registry.policies()
    if settings.adapt_every <= 0 and not any(policy.adapt_every for policy in policies.values()):
        return []
    started = []
    for adapter in registry.adapters():
        policy = policies.get(adapter.name, Policy())
        reason = due(registry, settings, adapter, policy)
        if reason is None:
            continue
        spec = RunSpec(adapter=adapter.name, seed=registry.feedback.count(adapter.name), reason=reason)
        try:
            started.append(begin(registry, spec, by=SCHEDULE))
        except ShoalError:
            continue  # too little feedback yet, too few experts, or a run was started meanwhile: the next tick asks again
    return started


def due(registry: Registry, settings: WorkerSettings, adapter: Adapter, policy: Policy) -> str | None:
    """Why a run of ``adapter`` is due now, in words; None while it is not. Its policy goes before the worker's settings."""
    every = settings.adapt_every if policy.adapt_every is None else policy.adapt_every
    enough = settings.adapt_min_new if policy.adapt_min_new is None else policy.adapt_min_new
    if every <= 0:
        return None
    latest = next(iter(registry.runs.list(adapter.name, limit=1)), None)
    since = (now() - (latest.created_at if latest else adapter.created_at)).total_seconds()
    if (latest and latest.going) or since < every:
        return None
    fresh = registry.feedback.count(adapter.name) - (latest.feedback_seen if latest else 0)
    if fresh < enough:
        return None
    return f"{fresh} new feedback items, {since:.0f} s since the last run"
