"""Has the champion's live rating fallen below that of the version before it? A reason to look again, not yet to move.

The version before answers nobody any more, so its rating is one of earlier days and other questions: a hard week would look like
a bad champion. Therefore the answer is no more than an alarm, upon which the version before goes on trial, and is compared with
the champion on the same days and questions, by the same test as any trial (``swarm_worker/canary.py``).

Traffic that became harder for good must not raise the alarm for ever. What the version before was rated during its last recheck
is of these days, and is compared with from then on. And whatever else raises it, recheck k of one champion is allowed a share
of ``false_moves`` (``swarm_worker/gate.py: spending``), so that all of them together, however many, falsely roll a champion back
with less than the chance that the policy says; the alarm becomes as much harder to raise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from registry.canary_policy import CanaryPolicy
from registry.records import Event, Feedback, Rollout
from registry.registry import Registry
from registry.standing import standing
from swarm_worker.gate import spending
from swarm_worker.sequential import Sums, horizon_bound, walk
from swarm_worker.trial import Counted, ratings

MOST = 5000
"""Feedback items that are read at most."""
ALARM = 0.05
"""How often a champion that is no worse raises its first alarm, in each window of ratings."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """Why the champion should be tried again, in words. ``look``: the how manieth recheck of this champion it would be;
    ``figures``: means, counts, the difference (of the version before), the chance that it is above 0, and what was allowed."""

    reason: str
    look: int
    figures: dict[str, float]


@dataclass(frozen=True, slots=True)
class _Reign:
    """``since``: when the champion became so, or a trial beside it ended the last time: what was said before says nothing new.
    ``rechecks``: how often it was tried again since it is champion. ``begun``: the sums of the version before it as each of these
    began, newest first."""

    since: datetime | None
    rechecks: int
    begun: tuple[Counted, ...]


def fallen(registry: Registry, rollout: Rollout, canary: CanaryPolicy, newest_first: Iterable[Event]) -> Alarm | None:
    """The alarm; None while the champion's last ``early_ratings`` ratings give no reason for one."""
    champion, before = rollout.champion, rollout.trail[-1] if rollout.trail else None
    if champion is None or before is None or registry.version(rollout.adapter, before).retired:
        return None
    events = iter(newest_first)
    reign = _reign(events, champion, before)
    recent = _recent(registry, rollout, reign, canary.early_ratings)
    if len(recent) < canary.early_ratings:
        return None
    live = Sums(len(recent), sum(recent), sum(rating**2 for rating in recent))
    then = _then(registry.figures.sums(rollout.adapter, [before])[before], reign, canary.min_ratings)
    fell = walk([(then, live)])
    if fell is None or then.n < canary.min_ratings or fell.place < horizon_bound(ALARM, fell.information):
        return None
    look = 1 + reign.rechecks + _rechecks_earlier(events, champion)
    alpha = ALARM * spending(look) / spending(1)
    if fell.place < (bound := horizon_bound(alpha, fell.information)):
        return None
    reason = (
        f"the champion's last {live.n:.0f} ratings are {fell.mean_champion:.3f} in the mean, those of {rollout.adapter}@{before} "
        f"were {fell.mean:.3f}"
    )
    low = fell.difference - bound * fell.deviation / fell.information
    figures = {"before": fell.mean, "n_before": fell.n, "champion": fell.mean_champion, "n_champion": fell.n_champion}
    figures |= {"difference": fell.difference, "low": low, "p_better": fell.p_above, "alpha": alpha}
    return Alarm(reason, look, figures)


def _recent(registry: Registry, rollout: Rollout, reign: _Reign, wanted: int) -> list[float]:
    """The champion's last ratings that stand: what it was rated in this reign, newest first. Fewer than ``wanted`` where it has
    fewer among the last ``MOST`` feedback items, whatever these say."""
    champion, came, before = rollout.champion or 0, list[Feedback](), None
    if registry.figures.sums(rollout.adapter, [champion])[champion].get("ratings", 0.0) < wanted:
        return []  # and nothing need be read
    rated: list[float] = []
    while len(rated) < wanted and len(came) < MOST:
        page = registry.feedback.list(rollout.adapter, limit=4 * wanted, before=before)
        if not page:
            break
        came, before = came + page, page[-1].id
        mine = [one for one in standing(came) if one.version == champion]
        rated = [one.rating for one in mine if one.rating is not None and (reign.since is None or one.at > reign.since)]
    return rated[:wanted]


def _then(counted: Counted, reign: _Reign, enough: int) -> Sums:
    """What the version before was rated: during the last recheck that gave it enough ratings, else ever."""
    then = Sums()
    for begun in (*reign.begun, {}):
        ((_, then),) = ratings([({}, {name: amount - begun.get(name, 0.0) for name, amount in counted.items()})])
        if then.n >= enough:
            break
    return then


def _reign(events: Iterator[Event], champion: int, before: int) -> _Reign:
    """Reads the events, newest first, back to the move by which the champion became so."""
    since: datetime | None = None
    rechecks, begun = 0, []
    for event in events:
        if event.kind in ("promoted", "rolled_back"):
            since = since or event.at
            break
        if event.kind == "canary_ended" and "trial" in event.details:
            since = since or event.at
        elif _begins_recheck(event, champion):
            rechecks += 1
            if event.version == before:
                begun.append(event.details.get("sums", {}).get(str(before), {}))
    return _Reign(since, rechecks, tuple(begun))


def _rechecks_earlier(events: Iterator[Event], champion: int) -> int:
    """How often it was tried again in earlier reigns: one that comes back by a rollback comes back with the looks that it had."""
    count = 0
    for event in events:
        if event.kind == "registered" and event.version == champion:
            break  # it cannot have been champion before
        count += _begins_recheck(event, champion)
    return count


def _begins_recheck(event: Event, champion: int) -> bool:
    """It, and no step of one: those follow a verdict."""
    told = event.details.get("trial") or {}
    begins = event.kind == "canary_started" and bool(told.get("recheck")) and "verdict" not in told
    return begins and event.before == champion
