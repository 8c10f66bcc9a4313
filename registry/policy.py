"""What happens to an adapter by itself, as a frozen record. Pure. docs/adaptation.md explains it field by field.

Every field takes effect; a field that is not known is refused. It is kept beside the rollout and changed by the same move.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, ValidationInfo, field_validator

from registry.canary_policy import CanaryPolicy
from registry.drop_policy import DropPolicy
from registry.durations import Seconds
from registry.errors import BadInput
from registry.gate_policy import GatePolicy
from registry.guard_policy import GuardPolicy
from registry.quiet_hours import window, zone
from registry.recording import RecordingPolicy
from registry.records import SCHEMA, Record, RunOptions


class Policy(Record):
    """When runs start by themselves and with what, whether they may promote, and how trials begin.

    When: ``adapt`` "never" stops every start by itself. ``adapt_every``: seconds (or 30m, 6h, 1d) between runs, 0: not by
    time; ``adapt_min_new``: fewest new feedback items for such a run; ``None`` leaves each to the worker's setting.
    ``adapt_after``: a run as soon as there are so many new feedback items, however short the last one is ago.
    ``adapt_on_drop``: a run when the champion's live rating is shown to have fallen. When not: ``quiet_hours``
    ("22:00-06:00") and ``runs_a_day``, which counts the runs that started by themselves, on the clock of ``time_zone``.
    With what: ``run``, for whatever the caller of a run leaves open, too. ``gate``: what a finalist must show; ``guards``: what
    it may not lose. ``promote``: whether a run may move the champion; if not, what it finds is registered and left to a
    person. ``recording``: whether prompts and answers are kept.
    """

    adapt: Literal["when_due", "never"] = "when_due"
    adapt_every: Seconds | None = None
    adapt_min_new: int | None = Field(default=None, ge=1)
    adapt_after: int | None = Field(default=None, ge=1)
    adapt_on_drop: DropPolicy | None = None
    quiet_hours: str | None = None
    runs_a_day: int | None = Field(default=None, ge=1)
    time_zone: str = "UTC"
    run: RunOptions = RunOptions()
    gate: GatePolicy = GatePolicy()
    guards: tuple[GuardPolicy, ...] = Field(default=(), max_length=20)
    promote: bool = True
    canary: CanaryPolicy = Field(default=CanaryPolicy(), validate_default=True)
    recording: RecordingPolicy = RecordingPolicy()
    schema_number: int = SCHEMA

    @field_validator("quiet_hours")
    @classmethod
    def _two_times(cls, value: str | None) -> str | None:
        if value is not None:
            window(value)
        return value

    @field_validator("canary")
    @classmethod
    def _users_decide(cls, canary: CanaryPolicy, others: ValidationInfo) -> CanaryPolicy:
        gate = others.data.get("gate")
        if gate is not None and gate.tolerance and not canary.automatic:
            raise ValueError(
                "a gate with a tolerance promises no gain, so users must decide: set canary.automatic to true, "
                "or gate.tolerance to 0"
            )
        return canary

    @classmethod
    def read(cls, given: Any) -> Policy:
        """The policy that ``given`` (a parsed file or body) spells, or one ``BadInput`` that names every wrong field."""
        try:
            policy = cls.model_validate(given)
        except ValidationError as wrong:
            problems = [_problem(error) for error in wrong.errors()]
            raise BadInput("The policy is not valid: " + "; ".join(problems), problems=problems) from wrong
        zone(policy.time_zone)
        return policy.model_copy(
            update={"schema_number": SCHEMA}
        )  # it is written now, whatever the file was written for


def _problem(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if not where:
        return "it must be a mapping of fields to values."
    if error["type"] == "extra_forbidden":
        fields = [name for name in _record_at(error["loc"][:-1]).model_fields if name != "schema_number"]
        return f"'{where}': there is no such field; there are {', '.join(fields)}."
    return f"'{where}': {error['msg'].removeprefix('Value error, ')}."


def _record_at(place: tuple[Any, ...]) -> type[BaseModel]:
    """The record whose field was not known: the policy, or a record in one of its fields."""
    found: type[BaseModel] = Policy
    for part in place:
        field = found.model_fields.get(part) if isinstance(part, str) else None
        records = [kind for kind in _kinds(field.annotation if field else None) if issubclass(kind, BaseModel)]
        found = records[0] if records else found
    return found


def _kinds(annotation: Any) -> list[type]:
    """The classes that an annotation is made of: itself, or those of ``X | None`` and ``tuple[X, ...]``."""
    if isinstance(annotation, type) and not hasattr(annotation, "__args__"):
        return [annotation]
    return [kind for part in getattr(annotation, "__args__", ()) for kind in _kinds(part)]
