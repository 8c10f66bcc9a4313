"""A run's find on trial: how it begins, and what the run says when it is over."""

from __future__ import annotations

from dataclasses import dataclass

from registry.canary_policy import CanaryPolicy
from registry.records import QUIET, Event, Run
from registry.registry import Registry
from swarm_worker.canary import newest_first
from swarm_worker.trial import PASSED_OVER, trial_of


@dataclass(frozen=True, slots=True)
class Ended:
    """How a trial ended, in words, and whether the run's version is champion by it. ``lost``: by its verdict it is not."""

    promoted: bool
    told: str
    lost: bool = False


def begin_trial(registry: Registry, run: Run, canary: CanaryPolicy, *, expected_revision: int) -> None:
    """The run's version goes on trial with the first share. Repeated: nothing. Refused (409): the rollout was moved, another
    version is on trial, or this one was rolled back before."""
    registry.start_canary(
        run.spec.adapter,
        int(run.version or 0),
        canary.steps[0],
        by_itself=True,
        by=run.id,
        reason=str((run.decision or {}).get("reason", "")),
        expected_revision=expected_revision,
        operation_id=_operation(run),
        details={"trial": {"run": run.id}, "gate": run.decision or {}, "formula": run.formula},
    )


def recheck_goes_on(registry: Registry, adapter: str) -> int | None:
    """The version before the champion, while it is tried against it and nobody took that trial over."""
    rollout = registry.rollout(adapter)
    if rollout.challenger is None:
        return None
    trial = trial_of(rollout, newest_first(registry, adapter))
    return trial.version if trial is not None and trial.recheck and trial.by_itself else None


def leaves_champion(event: Event) -> bool:
    """Whether the champion whom a run's find has beaten answers after the event as before: also where it was rechecked, for a
    recheck that rolls it back says so by an event of its own."""
    recheck = bool((event.details.get("trial") or {}).get("recheck"))
    return event.kind in QUIET or (event.kind in ("canary_started", "canary_ended") and recheck)


def share_now(registry: Registry, run: Run) -> float:
    """Of the traffic, for a run whose trial goes on."""
    return registry.rollout(run.spec.adapter).challenger_share


def ended(registry: Registry, run: Run) -> Ended | None:
    """How the trial ended: by its verdict, or by somebody who moved the rollout meanwhile. None: it goes on."""
    since: list[Event] = []
    for event in newest_first(registry, run.spec.adapter):
        if event.operation_id == _operation(run):
            break
        since.append(event)
    name = f"{run.spec.adapter}@{run.version}"
    for event in reversed(since):
        by_itself = "trial" in event.details
        if event.kind in PASSED_OVER or (event.kind == "canary_started" and by_itself and event.version == run.version):
            continue
        if not by_itself:
            return Ended(False, f"Registered {name}; its trial went to a person: {event}.")
        if event.kind == "promoted":
            return Ended(True, f"Promoted {name}: {event.reason}.")
        kept = "kept back" if event.details.get("withdrawn") else "not promoted"
        return Ended(False, f"Registered {name}, {kept}: {event.reason}.", lost=True)
    if not registry.policy(run.spec.adapter)[0].canary.automatic:
        return Ended(False, f"Registered {name}; its trial is left to a person, as the adapter's policy says now.")
    return None


def _operation(run: Run) -> str:
    return f"{run.id}:canary"
