"""Every stored record carries a schema number, and a newer one is refused with the remedy."""

from __future__ import annotations

import inspect

import pytest

from registry import records
from registry.errors import RecordNewer
from registry.records import SCHEMA, Record

STORED = {"Version", "Rollout", "Event", "Interaction", "Feedback", "Snapshot", "Run", "Replica"}
"""Kept under a key, in a stream or as an artifact of their own; every other record is a part of one of them."""


def stored() -> list[type[Record]]:
    found = inspect.getmembers(records, lambda value: inspect.isclass(value) and issubclass(value, Record))
    return [cls for name, cls in found if name in STORED or "schema_number" in cls.model_fields]


@pytest.mark.parametrize("cls", stored(), ids=lambda cls: cls.__name__)
def test_a_newer_record_is_refused_before_its_fields_are_looked_at(cls: type[Record]) -> None:
    """Whatever else it says, known or not: upgrade."""
    assert "schema_number" in cls.model_fields
    with pytest.raises(RecordNewer, match="upgrade this process") as refused:
        cls.model_validate_json(f'{{"schema_number": {SCHEMA + 1}, "colour": "red"}}')
    assert refused.value.status == 503
    assert refused.value.details["schema_number"] == SCHEMA + 1
