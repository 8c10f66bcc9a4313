"""Which versions are kept loaded whoever answers, and which are never served again."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter

from registry.records import Rollout
from service.api.adapters import Name, due_on, followed, ready
from service.api.parts import Caller, MoveBody, PartsOf

router = APIRouter(prefix="/api/adapters", tags=["adapters"])


class OfVersion(MoveBody):
    version: int


@router.post("/{name}/pin")
async def pin(name: Name, body: OfVersion, parts: PartsOf, caller: Caller) -> Rollout:
    """Keep a version loaded on every replica until it is unpinned; each loads it first."""
    async with ready(parts, name, body.version, due=await due_on(parts, name, body) is not None):
        rollout = await asyncio.to_thread(
            lambda: parts.registry.pin(name, body.version, by=caller, **body.conditions())
        )
        return await followed(parts, rollout)


@router.post("/{name}/unpin")
async def unpin(name: Name, body: OfVersion, parts: PartsOf, caller: Caller) -> Rollout:
    """Keep a version loaded only while the rollout itself needs it."""
    rollout = await asyncio.to_thread(lambda: parts.registry.unpin(name, body.version, by=caller, **body.conditions()))
    return await followed(parts, rollout)


@router.post("/{name}/retire")
async def retire(name: Name, body: OfVersion, parts: PartsOf, caller: Caller) -> Rollout:
    """Never serve a version again; its record and lineage stay. One that is kept loaded is refused (409)."""
    rollout = await asyncio.to_thread(lambda: parts.registry.retire(name, body.version, by=caller, **body.conditions()))
    return await followed(parts, rollout)
