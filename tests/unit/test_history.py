"""Times as people write them, policies as they spell them, and histories that were written before moves told what was live."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from registry.errors import BadInput
from registry.history import live_at, moment
from registry.policy import Policy
from registry.records import Event, Rollout
from registry.store import Answered
from registry.stores.memory import MemoryStore

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("text", ["2026-01-01", "2026-01-01T00:00Z", " 2026-01-01 01:00+01:00 "])
def test_a_time_without_an_offset_is_utc(text: str) -> None:
    assert moment(text) == START


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2026-13-01", "12:00", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"]
)
def test_what_is_no_time_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(BadInput, match="2026-11-23T18:57:10Z"):
        moment(text)


def test_a_history_of_before_is_folded() -> None:
    """Events that do not tell what was live still say it together; before the adapter and after now nobody knows."""
    store = MemoryStore()
    made = {"adapter": "bot", "by": "ann"}
    store.create(
        Rollout(adapter="bot", revision=0, moved_at=START), Event(kind="created", at=START, revision=0, **made)
    )
    told = [
        {"kind": "promoted", "after": 1},
        {"kind": "canary_started", "version": 2, "before": 1, "after": 1, "details": {"share": 0.2}},
        {"kind": "retired", "version": 3, "before": 1, "after": 1},
        {"kind": "canary_ended", "version": 2, "before": 1, "after": 1},
    ]
    for number, event in enumerate(told, 1):
        at = START + timedelta(hours=number)
        rollout = Rollout(adapter="bot", revision=number, moved_at=at)
        store.move(Answered(rollout=rollout), Event(at=at, revision=number, **event, **made), operation_id=str(number))

    found = [live_at(store, "bot", START + timedelta(hours=number, minutes=1)) for number in range(5)]

    assert [one.since.revision for one in found] == [0, 1, 2, 3, 4]
    assert [(one.live.champion, one.live.challenger, one.live.challenger_share) for one in found] == [
        (None, None, 0.0),
        (1, None, 0.0),
        (1, 2, 0.2),
        (1, 2, 0.2),
        (1, None, 0.0),
    ]
    with pytest.raises(BadInput, match="did not exist"):
        live_at(store, "bot", START - timedelta(seconds=1))
    with pytest.raises(BadInput, match="future"):
        live_at(store, "bot", datetime.now(UTC) + timedelta(days=1))


def test_a_policy_names_what_is_wrong_with_it() -> None:
    assert Policy.read({"adapt_every": "6h"}).adapt_every == 21600
    for wrong, named in (
        ({"adapt_evry": 1}, "'adapt_evry': there is no such field; there are adapt, adapt_every"),
        ({"adapt_every": "soon"}, "'adapt_every'"),
        ({"canary": {"share": 2}}, "'canary.share'"),
        ([], "must be a mapping"),
    ):
        with pytest.raises(BadInput, match=named):
            Policy.read(wrong)
