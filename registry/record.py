"""What every record is: frozen, strict, and refused by a process that is too old for it. Pure."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from registry.errors import RecordNewer

SCHEMA = 2
"""The newest schema of stored records, files and backups that this code reads. Raise it when an older process would misread."""


def check_schema(noun: str, number: Any) -> None:
    """``RecordNewer`` for a schema number above ours; whatever is no number is for the reader of the record to refuse."""
    if isinstance(number, int) and number > SCHEMA:
        raise RecordNewer(noun, schema=number, known=SCHEMA)


class Record(BaseModel):
    """A frozen value. One that is stored by itself carries a schema number: a newer one is ``RecordNewer``, before
    its fields are looked at, so that an older process says what to do instead of tripping over an unknown field."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _not_newer(cls, value: Any) -> Any:
        if isinstance(value, dict) and "schema_number" in value and "schema_number" in cls.model_fields:
            check_schema(cls.__name__.lower(), value["schema_number"])
        return value
