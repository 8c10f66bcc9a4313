"""What was live at a moment: read from a move's event, or folded from the events of before moves told it. Pure over a store."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from registry.errors import BadInput
from registry.records import AdapterName, Event, Live, Record, now
from registry.store import Store

_PAGE = 500


class LiveAt(Record):
    """What was live at a moment, and the event that had made it so."""

    adapter: AdapterName
    at: datetime
    live: Live
    since: Event


def moment(text: str) -> datetime:
    """A time as people write it, ISO 8601; without an offset it is UTC. ``BadInput``."""
    try:
        at = datetime.fromisoformat(text.strip())
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError) as wrong:  # the latter: in UTC it lies before the year 1, or after 9999
        raise BadInput(
            f"'{text[:80]}' is not a time. Write it like 2026-11-23T18:57:10Z, or 2026-11-23T18:57:10+01:00.",
            field="at",
        ) from wrong


def live_at(store: Store, adapter: str, at: datetime) -> LiveAt:
    """What was live at ``at``. ``BadInput`` for a moment before the adapter or in the future; ``AdapterUnknown``."""
    if at > now():
        raise BadInput(f"{at.isoformat()} lies in the future; now is {now().isoformat()} (UTC).", field="at")
    since = store.move_at(adapter, at)
    if since is not None and since.live is not None:
        return LiveAt(adapter=adapter, at=at, live=since.live, since=since)
    moves = []
    for event in _moves_before(store, adapter, at):
        moves.append(event)
        if event.live is not None or event.kind in ("created", "promoted", "rolled_back"):
            break  # it says everything; what came before it no longer matters
    if not moves:
        raise BadInput(f"'{adapter}' did not exist at {at.isoformat()}.", field="at")
    live = Live(revision=0)
    for event in reversed(moves):
        live = event.live or _after(event, live)
    return LiveAt(adapter=adapter, at=at, live=live, since=moves[0])


def _moves_before(store: Store, adapter: str, at: datetime) -> Iterator[Event]:
    """Every move at or before ``at``, newest first."""
    before: int | None = None
    while page := store.history(adapter, _PAGE, before):
        yield from (event for event in page if event.kind != "registered" and event.at <= at)
        before = page[-1].number


def _after(event: Event, live: Live) -> Live:
    """What was live after an event that does not tell it."""
    if event.kind == "canary_started":
        trial = {
            "challenger": event.version,
            "challenger_share": event.details.get("share", 0.0),
            "shadow": event.details.get("shadow", False),
        }
        return live.model_copy(update={"revision": event.revision, **trial})
    if event.kind in ("promoted", "rolled_back", "canary_ended"):
        return live.model_copy(
            update={
                "revision": event.revision,
                "champion": event.after,
                "challenger": None,
                "challenger_share": 0.0,
                "shadow": False,
            }
        )
    return live.model_copy(update={"revision": event.revision})
