"""Every stored record carries a schema number, and a newer one is refused with the remedy."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

import pytest

import registry
from registry.errors import RecordNewer
from registry.record import SCHEMA, Record

STORED = {
    "ApiKey", "Event", "Feedback", "Interaction", "KeyEvent", "Manifest", "Policy", "Replica", "Rollout", "Run", "Snapshot",
    "Suite", "SuiteRef", "Version", "Worker",
}  # fmt: skip
"""Kept under a key, in a stream, in a file or as an artifact of their own; every other record is a part of one of them."""


def below(cls: type[Record]) -> Iterator[type[Record]]:
    for kind in cls.__subclasses__():
        yield kind
        yield from below(kind)


def records() -> list[type[Record]]:
    """Every record of the registry, in whichever module."""
    for module in pkgutil.walk_packages(registry.__path__, "registry."):
        importlib.import_module(module.name)
    return sorted(
        {kind for kind in below(Record) if kind.__module__.startswith("registry.")}, key=lambda kind: kind.__name__
    )


def numbered() -> list[type[Record]]:
    return [kind for kind in records() if "schema_number" in kind.model_fields]


def test_what_is_stored_by_itself_is_numbered_and_nothing_else() -> None:
    """A record that is new here belongs into the list, or into another record."""
    assert {kind.__name__ for kind in numbered()} == STORED


@pytest.mark.parametrize("cls", numbered(), ids=lambda cls: cls.__name__)
def test_a_newer_record_is_refused_before_its_fields_are_looked_at(cls: type[Record]) -> None:
    """Whatever else it says, known or not: upgrade."""
    with pytest.raises(RecordNewer, match="upgrade this process") as refused:
        cls.model_validate_json(f'{{"schema_number": {SCHEMA + 1}, "colour": "red"}}')
    assert refused.value.status == 503
    assert refused.value.details["schema_number"] == SCHEMA + 1
