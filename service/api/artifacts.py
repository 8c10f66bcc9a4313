"""The place for weights: what is damaged or missing, and what nobody needs."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import Field

from registry.artifact_check import check
from registry.garbage import GRACE_SECONDS, collect
from service.api.parts import Body, Caller, PartsOf

router = APIRouter(prefix="/api/artifacts", tags=["artifacts"])


class Collect(Body):
    """``grace_seconds``: what was stored or announced that recently stays, as its registration may be on the way."""

    dry_run: bool = False
    grace_seconds: float = Field(default=GRACE_SECONDS, ge=60.0)


@router.post("/check")
def check_artifacts(parts: PartsOf, _: Caller) -> dict[str, Any]:
    """Read every byte that a record names; tell the digests that cannot be served, and who names them."""
    return check(parts.registry).to_json()


@router.post("/gc")
def collect_garbage(body: Collect, parts: PartsOf, _: Caller) -> dict[str, Any]:
    """Delete the bytes that no record names."""
    return collect(parts.registry, dry_run=body.dry_run, grace=body.grace_seconds).to_json()
