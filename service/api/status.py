"""The state of the service at one look."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from registry.errors import RegistryDown
from service.api.parts import Caller, PartsOf

router = APIRouter(prefix="/api/status", tags=["status"])


@router.get("")
def get_status(parts: PartsOf, _: Caller) -> Any:
    """Replicas and what each holds; with Redis gone, this replica alone."""
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
        "leftover": parts.replica.leftover,
        "rollouts": parts.replica.rollouts,
        "feedback_spooled": parts.spool.waiting,
        "interactions_dropped": parts.recorder.dropped if parts.recorder else 0,
    }
