"""The ratings that a champion was given since it is champion, and whether they fell."""

from __future__ import annotations

from datetime import datetime

from registry.drop_policy import DropPolicy
from registry.records import Adapter, Feedback
from registry.registry import Registry
from registry.standing import standing
from swarm_worker.drop import drop_of

MOST = 20_000
"""Feedback items that are read at most, the newest; of a champion with more, the first ratings are the oldest of these."""
_PAGE = 1000


def fallen(registry: Registry, adapter: Adapter, policy: DropPolicy, fresh: int) -> str | None:
    """That the champion's live rating fell, in words; None while that is not shown. ``fresh``: the feedback items, of any
    version, that came since the adapter's last run began."""
    champion = adapter.rollout.champion
    # Fewer than a block is new: nothing is tested, and nothing need be read.
    if champion is None or fresh < policy.ratings:
        return None
    came, since = _latest(registry, adapter.name), _champion_since(registry, adapter)
    new = {one.id for one in came[-fresh:]}  # by when they came: the latest may tell of long ago
    feedback = [one for one in came if one.at >= since]
    rated = [one for one in standing(feedback) if one.version == champion and one.rating is not None]
    drop = drop_of([float(one.rating or 0.0) for one in rated], sum(one.id in new for one in rated), policy)
    return str(drop) if drop is not None and drop.dropped else None


def _champion_since(registry: Registry, adapter: Adapter) -> datetime:
    """When the version that is champion became it, the last time."""
    before: int | None = None
    while page := registry.history(adapter.name, before=before):
        for event in page:
            if event.kind in ("promoted", "rolled_back") and event.after == adapter.rollout.champion:
                return event.at
        before = page[-1].number
    return adapter.created_at


def _latest(registry: Registry, adapter: str) -> list[Feedback]:
    """The ``MOST`` feedback items that came last, in the order that they came."""
    found: list[Feedback] = []
    before: str | None = None
    while len(found) < MOST and (page := registry.feedback.list(adapter, limit=_PAGE, before=before)):
        found += page
        before = page[-1].id
    return found[::-1]
