"""The judge of the kills: before, after or between, and whether what was asked for happened."""

from __future__ import annotations

from typing import Any

import pytest

from bench.kills import ADAPTER, Ended, met, state, summed

BEFORE: dict[str, Any] = {"revision": 4, "champion": 1}
MOVED: dict[str, Any] = {"revision": 5, "champion": 2}


def found(after: dict[str, Any], *, told: int | None = None, history: int | None = None, answers: int = 0) -> str:
    revision = after["revision"] if history is None else history
    return state(BEFORE, after, 2, told, revision, f"{ADAPTER}@{answers or after['champion']}")


def test_a_move_has_happened_or_it_has_not() -> None:
    """The caller may have been cut off either way; who was answered was told the truth."""
    assert found(BEFORE) == "before"
    assert found(MOVED) == "after"
    assert found(MOVED, told=5) == "after"


@pytest.mark.parametrize(
    "state",
    [
        found(MOVED | {"revision": 6}),  # two moves for one
        found(MOVED | {"champion": 3}),  # another version than the one that was asked for
        found(MOVED, history=4),  # moved without an event
        found(BEFORE, history=5),  # an event without its move
        found(MOVED, answers=1),  # the old version answers
        found(BEFORE, told=5),  # the caller was told of a move that is gone
    ],
)
def test_anything_else_is_between(state: str) -> None:
    assert state == "between"


def test_the_bar_wants_the_kills_that_were_asked_for_and_no_move_but_theirs() -> None:
    """Nothing that did not happen counts as a success: too few kills, a process that lived on, a move from nowhere."""
    ended = [Ended(True, "before", 0, 40.0), Ended(True, "after", 0, 41.26)]
    figures = summed(ended, moves=1)
    assert figures == {
        "kills": 2,
        "between": 0,
        "before": 1,
        "after": 1,
        "moves": 1,
        "orphans": 0,
        "slowest_recovery_s": 41.3,
    }
    assert met(figures, 2)
    assert not met(figures, 3)
    assert not met(summed(ended, moves=2), 2)
    assert not met(summed([], moves=0), 1)
    assert not met(summed([ended[0], Ended(False, "after", 0, 1.0)], moves=1), 2)
    assert not met(summed([ended[0], Ended(True, "after", 1, 1.0)], moves=1), 2)
    assert not met(summed([ended[0], Ended(True, "between", 0, 1.0)], moves=1), 2)
