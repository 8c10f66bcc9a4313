"""What happens to an adapter by itself, as a frozen record. Pure.

Every field takes effect; a field that is not known is refused. It is kept beside the rollout and changed by the same move.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, ValidationError

from registry.durations import Seconds
from registry.errors import BadInput
from registry.records import SCHEMA, Record


class CanaryPolicy(Record):
    """How a trial begins where its caller does not say. ``share``: of the traffic, 0 to 1."""

    share: float = Field(default=0.05, ge=0.0, le=1.0)


class Policy(Record):
    """When runs start by themselves, whether they may promote, and how trials begin.

    ``adapt_every``: seconds (or 30m, 6h, 1d) between runs, 0: never by itself; ``adapt_min_new``: fewest new feedback items for
    such a run; ``None`` leaves each to the worker's setting. ``promote``: whether a run may move the champion; if not, what it
    finds is registered and left to a person.
    """

    adapt_every: Seconds | None = None
    adapt_min_new: int | None = Field(default=None, ge=1)
    promote: bool = True
    canary: CanaryPolicy = CanaryPolicy()
    schema_number: int = SCHEMA

    @classmethod
    def read(cls, given: Any) -> Policy:
        """The policy that ``given`` (a parsed file or body) spells, or one ``BadInput`` that names every wrong field."""
        try:
            return cls.model_validate(given)
        except ValidationError as wrong:
            problems = [_problem(error) for error in wrong.errors()]
            raise BadInput("The policy is not valid: " + "; ".join(problems), problems=problems) from wrong


def _problem(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if not where:
        return "it must be a mapping of fields to values."
    if error["type"] == "extra_forbidden":
        fields = [name for name in Policy.model_fields if name != "schema_number"]
        return f"'{where}': there is no such field; there are {', '.join(fields)}."
    return f"'{where}': {error['msg']}."
