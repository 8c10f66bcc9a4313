"""What every route under ``/api`` uses: the service's parts, the caller's name, bodies that refuse unknown fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Query, Request
from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator

from registry.errors import BadInput
from registry.records import ADAPTER_NAME
from registry.registry import Registry
from registry.text import a_reason, encodable
from service import auth
from service.bell import Bell
from service.gate import caller_of
from service.intake import Intake
from service.keyring import Keyring
from service.posts import Posts
from service.recorder import Recorder
from service.replica import Replica
from service.settings import ServiceSettings
from service.spool import Spool
from service.tally import Tally

T = TypeVar("T")


@dataclass(frozen=True)
class Parts:
    """What the service is made of, once it has started."""

    settings: ServiceSettings
    registry: Registry
    replica: Replica
    keyring: Keyring
    bell: Bell
    recorder: Recorder
    intake: Intake
    posts: Posts
    spool: Spool
    tally: Tally


class Shape(BaseModel):
    """What a caller sends: a field that it does not know is an error, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Body(Shape):
    """A request body as FastAPI reads it: text that nobody could store or send back is refused before anything is done."""

    @model_validator(mode="before")
    @classmethod
    def _encodable(cls, given: Any) -> Any:
        return encodable(given)


Why = Annotated[str, AfterValidator(a_reason)]  # asked at the door: a move may wait for replicas first


class MoveBody(Body):
    """What every move of a rollout takes."""

    expected_revision: int | None = None
    operation_id: str | None = None
    reason: Why = ""

    def conditions(self) -> dict[str, Any]:
        return {
            "expected_revision": self.expected_revision,
            "operation_id": self.operation_id,
            "reason": self.reason,
        }


def _parts(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


def _who(request: Request) -> auth.Caller:
    return caller_of(request.scope)


def _caller(request: Request) -> str:
    return _who(request).name


def adapter_name(name: str) -> str:
    """A name that may become an adapter's; BadInput says which may."""
    if not ADAPTER_NAME.fullmatch(name):
        raise BadInput(
            f"'{name[:80]}' cannot name an adapter: use 1 to 64 of a-z, 0-9, '.', '_', '-', beginning and ending with a letter "
            "or digit.",
            field="name",
        )
    return name


def page(found: list[T], limit: int) -> tuple[list[T], bool]:
    """The page out of what was found when one more than ``limit`` was asked for, and whether more lie behind it."""
    return found[:limit], len(found) > limit


# Redis counts in 64 bits: what it could not is refused at the door.
Limit = Annotated[int, Query(ge=1, le=1000)]
Before = Annotated[int | None, Query(ge=1, le=2**53)]
PartsOf = Annotated[Parts, Depends(_parts)]
Caller = Annotated[str, Depends(_caller)]  # the name that history writes down; the gate has let it in
Who = Annotated[auth.Caller, Depends(_who)]  # for lists that are filtered, and for adapters that a body names
