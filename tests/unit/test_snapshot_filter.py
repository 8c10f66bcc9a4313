"""Which feedback counts: what the record refuses, what it resolves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from registry.snapshot_filter import Chosen, SnapshotFilter

AT = datetime(2026, 1, 1, tzinfo=UTC)


def test_last_becomes_a_fixed_time_when_it_is_frozen() -> None:
    """The last thirty days are other days tomorrow; the later of two bounds counts."""
    month = SnapshotFilter.model_validate({"last": "30d"})
    assert month.frozen(AT).since == AT - timedelta(days=30)
    assert month.frozen(AT).last is None
    later = SnapshotFilter(last=86400.0, since=AT - timedelta(hours=1))
    assert later.frozen(AT).since == AT - timedelta(hours=1)
    assert SnapshotFilter().frozen(AT) == SnapshotFilter()


@pytest.mark.parametrize(
    "given",
    [
        {"since": "2026-01-02T00:00:00Z", "until": "2026-01-01T00:00:00Z"},
        {"since": "2026-01-02T00:00:00"},
        {"last": "800000d"},
        {"max_rater_share": 0},
        {"max_rater_share": 1.1},
        {"max_per_rater": 0},
        {"balance": "colour"},
        {"near_duplicate_at": 0},
        {"colour": "red"},
    ],
)
def test_what_makes_no_sense_is_refused(given: dict[str, object]) -> None:
    """A time without a zone, an empty span, a cap of nothing, a field that is not known."""
    with pytest.raises(ValidationError):
        SnapshotFilter.model_validate(given)


def test_names_are_taken_or_left_out() -> None:
    """None takes all; what is both taken and left out is left out."""
    assert Chosen().takes("ann")
    assert Chosen().takes_any(())
    assert not Chosen(include=("ann",)).takes("bob")
    assert not Chosen(include=("ann",), exclude=("ann",)).takes("ann")
    assert Chosen(include=("maths",)).takes_any(("maths", "easy"))
    assert not Chosen(include=("maths",)).takes_any(())
    assert not Chosen(include=("maths",), exclude=("easy",)).takes_any(("maths", "easy"))
