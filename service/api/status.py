"""The state of the service at one look."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Field

from registry.errors import RegistryDown
from service.api.parts import Body, Caller, PartsOf, Who, Why
from service.engine import EngineError

router = APIRouter(prefix="/api/status", tags=["status"])


class Acceptance(Body):
    """Why the older state is the right one to go on from."""

    reason: Annotated[Why, Field(min_length=1)]


@router.post("/accept-registry")
def accept_registry(body: Acceptance, parts: PartsOf, caller: Caller) -> Any:
    """Go on from an older registry, deliberately; one event an adapter says who and why."""
    known = list(parts.replica.rollouts.values())
    return {"rollouts": parts.registry.guard.accept(by=caller, reason=body.reason, known=known)}


@router.get("/engine")
async def get_engine(parts: PartsOf, who: Who) -> Any:
    """What this replica's engine holds by its own account, asked now; null: it does not answer. For a look, not for a probe:
    see ``Residents.held``."""
    who.need_every_adapter()
    try:
        holds: list[str] | None = await parts.replica.engine_holds()
    except EngineError:
        holds = None
    return {"replica": parts.settings.replica_id, "places": parts.replica.places, "holds": holds}


@router.get("")
def get_status(parts: PartsOf, who: Who) -> Any:
    """Replicas and what each holds; with Redis gone, this replica alone."""
    who.need_every_adapter()
    try:
        replicas: list[Any] | None = parts.registry.replicas.live()
    except RegistryDown:
        replicas = None
    return {
        "replica": parts.settings.replica_id,
        "ready": parts.replica.ready,
        "redis": "up" if replicas is not None else "down",
        "replicas": replicas or [],
        "leases": parts.replica.leases,
        "unservable": parts.replica.unservable,
        "without_place": parts.replica.without_place,
        "leftover": parts.replica.leftover,
        "rollouts": parts.replica.rollouts,
        "problems": parts.replica.problems,
        "feedback_spooled": parts.spool.waiting,
        "interactions_dropped": parts.recorder.dropped,
    }
