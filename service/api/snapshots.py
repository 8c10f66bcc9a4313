"""Snapshots: what a run was on, item by item."""

from __future__ import annotations

from fastapi import APIRouter

from registry.adaptation import stored_snapshot
from registry.records import Snapshot
from service.api.parts import PartsOf, Who

router = APIRouter(prefix="/api/snapshots", tags=["runs"])


@router.get("/{digest}")
def get_snapshot(digest: str, parts: PartsOf, who: Who) -> Snapshot:
    """How it was made, and its items; a run on it again: `snapshot_digest` of POST /api/runs."""
    snapshot = stored_snapshot(parts.registry, digest)
    who.need_adapter(snapshot.adapter)
    return snapshot
