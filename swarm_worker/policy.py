"""When a run starts by itself: what an adapter's policy says, asked at every tick.

Ticks may come late, twice, or from two schedulers at once. Whoever decides does so upon the adapter's latest run, and a run
begins only while that is the latest still (``Runs.create``): of any number of ticks that saw the same, one begins a run, even if
that run has ended before the last of them acts. The run remembers how much feedback there was; the next needs more.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from datetime import datetime

from registry.adaptation import begin
from registry.errors import Conflict, RegistryDown, ShoalError
from registry.policy import Policy
from registry.quiet_hours import day_began, is_quiet, zone
from registry.records import Adapter, Run, RunSpec, now
from registry.registry import Registry
from swarm_worker.live_ratings import fallen
from swarm_worker.run_trial import recheck_goes_on
from swarm_worker.settings import WorkerSettings

log = logging.getLogger("shoal.policy")
SCHEDULE = "schedule"
"""Who a run that starts by itself says it was started by."""
_PAGE = 100


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of an adapter when it is asked whether a run is due. ``since``: seconds since its latest run began, or
    since it was created; ``fresh``: feedback items that came since; ``today``: runs that started by themselves today; ``drop``:
    that the champion's live rating fell, in words."""

    at: datetime
    since: float
    fresh: int
    going: bool = False
    today: int = 0
    drop: str | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """What a caller of ``start_due_runs`` keeps from tick to tick, so that what was asked is not asked again at once; losing it
    costs time alone. ``refused``: adapters that were due and could not begin (too little usable feedback, too few experts, a
    version on trial), with the feedback, the rollout's revision and the versions that they had: once one is another they are
    asked again.
    ``tested``: where the champion's ratings were read, the feedback, the revision and the latest run."""

    refused: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    tested: dict[str, tuple[int, int, str]] = field(default_factory=dict)


def start_due_runs(registry: Registry, settings: WorkerSettings, memory: Memory | None = None) -> list[Run]:
    """Begin a run for each adapter that is due. Called by every tick; repeated or at once, one run begins for one reason."""
    policies = registry.policies()
    memory = memory or Memory()
    if settings.adapt_every <= 0 and not any(_starts(policy) for policy in policies.values()):
        return []
    started = []
    for adapter in registry.adapters():
        policy = policies.get(adapter.name, Policy())
        if policy.adapt == "never" or not (settings.adapt_every > 0 or _starts(policy)):
            continue
        state = (registry.feedback.count(adapter.name), adapter.rollout.revision, adapter.versions)
        if memory.refused.get(adapter.name) == state:
            continue
        try:
            run = _start_if_due(registry, settings, adapter, policy, memory, feedback=state[0])
        except RegistryDown:
            raise
        except ShoalError as error:
            log.info("no run of %s: %s", adapter.name, error.message)
            if error.status != 503:  # an outage passes
                memory.refused[adapter.name] = state
        except Exception:  # one adapter's trouble, whatever it is, holds no other's runs up
            log.exception("no run of %s", adapter.name)
            memory.refused[adapter.name] = state
        else:
            started += [run] if run else []
    return started


def due(policy: Policy, settings: WorkerSettings, seen: Seen) -> str | None:
    """Why a run is due, in words; None while it is not. The policy goes before the worker's settings."""
    if policy.adapt == "never" or seen.going or _held_back(policy, seen):
        return None
    every = settings.adapt_every if policy.adapt_every is None else policy.adapt_every
    enough = settings.adapt_min_new if policy.adapt_min_new is None else policy.adapt_min_new
    if every > 0 and seen.since >= every and seen.fresh >= enough:
        return f"{seen.fresh} new feedback items, {seen.since:.0f} s since the last run"
    if policy.adapt_after is not None and seen.fresh >= policy.adapt_after:
        return f"{seen.fresh} new feedback items, at least {policy.adapt_after}"
    return seen.drop if policy.adapt_on_drop is not None else None


def _starts(policy: Policy) -> bool:
    """Whether the policy itself has something that starts runs."""
    return bool(policy.adapt != "never" and (policy.adapt_every or policy.adapt_after or policy.adapt_on_drop))


def _held_back(policy: Policy, seen: Seen) -> bool:
    if policy.quiet_hours is not None and is_quiet(policy.quiet_hours, zone(policy.time_zone), seen.at):
        return True
    return policy.runs_a_day is not None and seen.today >= policy.runs_a_day


def _start_if_due(
    registry: Registry, settings: WorkerSettings, adapter: Adapter, policy: Policy, memory: Memory, *, feedback: int
) -> Run | None:
    at = now()
    latest = registry.runs.latest(adapter.name)
    seen = Seen(
        at=at,
        since=(at - (latest.created_at if latest else adapter.created_at)).total_seconds(),
        fresh=feedback - (latest.feedback_seen if latest else 0),
        going=latest is not None and latest.going,
        today=_started_today(registry, adapter.name, policy, at),
    )
    reason = due(policy, settings, seen)
    waits = seen.going or _held_back(policy, seen)
    if reason is None and not waits and policy.adapt_on_drop is not None:
        state = (feedback, adapter.rollout.revision, latest.id if latest else "")
        if _worth_reading(memory.tested.get(adapter.name), state, policy.adapt_on_drop.ratings):
            drop = fallen(registry, adapter, policy.adapt_on_drop, seen.fresh)
            reason = due(policy, settings, replace(seen, drop=drop))
            memory.tested[adapter.name] = state
    if reason is None:
        return None
    if (tried := adapter.rollout.challenger) is not None and recheck_goes_on(registry, adapter.name) != tried:
        raise Conflict(f"{adapter.name}@{tried} is on trial, and what a run finds could not be")
    spec = RunSpec(adapter=adapter.name, seed=feedback, reason=reason)
    return begin(registry, spec, by=SCHEDULE, after=latest.id if latest else "")


def _worth_reading(before: tuple[int, int, str] | None, state: tuple[int, int, str], ratings: int) -> bool:
    """Whether so much changed since the champion's ratings were last read that another block may be whole."""
    return before is None or before[1:] != state[1:] or state[0] - before[0] >= max(1, ratings // 10)


def _started_today(registry: Registry, adapter: str, policy: Policy, at: datetime) -> int:
    """Runs of the adapter that started by themselves since its midnight; 0 where nobody counts them."""
    if policy.runs_a_day is None:
        return 0
    midnight = day_began(zone(policy.time_zone), at)
    count, before = 0, None
    while page := registry.runs.list(adapter, limit=_PAGE, before=before):
        for run in page:
            if run.created_at < midnight:
                return count
            count += run.created_by == SCHEDULE
        before = page[-1].id
    return count
