"""Has the champion's live rating fallen below that of the version before it? A reason to look again, not yet to move.

The version before answers nobody any more, so its rating is one of earlier days and other questions: a hard week would look like
a bad champion. Therefore the answer is no more than an alarm, upon which the version before goes on trial, and is compared with
the champion on the same days and questions, by the same test as any trial (``swarm_worker/canary.py``).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from registry.canary_policy import CanaryPolicy
from registry.records import Event, Rollout
from registry.registry import Registry
from swarm_worker.sequential import Sums, horizon_bound, walk
from swarm_worker.trial import ratings

ALARM = 0.05
"""How often a champion that is no worse raises the alarm, in each window of ratings."""


def fallen(registry: Registry, rollout: Rollout, canary: CanaryPolicy, newest_first: Iterable[Event]) -> str | None:
    """Why the champion should be tried again, in words; None while its last ``early_ratings`` ratings give no reason."""
    champion, before = rollout.champion, rollout.trail[-1] if rollout.trail else None
    if champion is None or before is None or registry.version(rollout.adapter, before).retired:
        return None
    since = _since(newest_first)
    recent = [
        said.rating
        for said in registry.feedback.list(rollout.adapter, limit=4 * canary.early_ratings)
        if said.version == champion and said.rating is not None and (since is None or said.at > since)
    ][: canary.early_ratings]
    if len(recent) < canary.early_ratings:
        return None
    live = Sums(len(recent), sum(recent), sum(rating**2 for rating in recent))
    ((_, then),) = ratings([({}, registry.figures.sums(rollout.adapter, [before])[before])])
    fell = walk([(then, live)])
    if fell is None or then.n < canary.min_ratings or fell.place < horizon_bound(ALARM, fell.information):
        return None
    return (
        f"the champion's last {live.n:.0f} ratings are {fell.mean_champion:.3f} in the mean, those of {rollout.adapter}@{before} "
        f"were {fell.mean:.3f}"
    )


def _since(newest_first: Iterable[Event]) -> datetime | None:
    """When the champion became so, or was tried again the last time: what was said before says nothing new."""
    for event in newest_first:
        if event.kind in ("promoted", "rolled_back") or (event.kind == "canary_ended" and "trial" in event.details):
            return event.at
    return None
