"""Adapters, their versions and their rollouts."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Form, Query, UploadFile
from pydantic import Field
from starlette.responses import FileResponse, JSONResponse

from registry.archives import unpack
from registry.errors import AdapterUnknown, BadInput, RegistryDown, RolloutMoved, TooLarge
from registry.history import moment
from registry.moves import How
from registry.records import Adapter, Rollout, Version
from service import auth
from service.api.exports import ExportResponse
from service.api.parts import Before, Body, Caller, Limit, MoveBody, Parts, PartsOf, Who, adapter_name, page

router = APIRouter(prefix="/api/adapters", tags=["adapters"])
Name = Annotated[str, Depends(adapter_name)]
CHUNK = 1 << 20
RIVALS = 5  # moves that may come between a move and the replicas it asked, one after the other


class NewAdapter(Body):
    name: str


class Promote(MoveBody):
    version: int


class RollBack(MoveBody):
    to: int | None = None


class Canary(MoveBody):
    """``version: null`` ends the trial; ``shadow``: the champion answers everything, the trial is scored on the side."""

    version: int | None
    share: Annotated[float, Field(ge=0, le=1)] | None = None
    shadow: bool = False


@router.get("")
def list_adapters(
    parts: PartsOf, who: Who, limit: Limit = 100, after: Annotated[str, Query(max_length=64)] = ""
) -> Any:
    """A page, by name; ``next`` is the ``after`` of the page behind it."""
    found, more = page(_adapters(parts, who, limit + 1, after), limit)
    return {"adapters": found, "next": found[-1].name if more else None}


@router.post("")
def create_adapter(body: NewAdapter, parts: PartsOf, caller: Caller, who: Who) -> Any:
    who.need_adapter(body.name)
    return parts.registry.create_adapter(adapter_name(body.name), by=caller)


@router.get("/{name}")
def get_adapter(name: Name, parts: PartsOf, _: Caller) -> Any:
    return parts.registry.adapter(name)


@router.get("/{name}/versions")
def list_versions(name: Name, parts: PartsOf, _: Caller, limit: Limit = 100, before: Before = None) -> Any:
    """A page, newest first; ``next`` is the ``before`` of the page behind it."""
    found, more = page(parts.registry.versions(name, limit + 1, before), limit)
    return {"versions": found, "next": found[-1].version if more else None}


@router.post("/{name}/versions")
async def add_version(
    name: Name,
    parts: PartsOf,
    caller: Caller,
    archive: Annotated[UploadFile, File(description="zip, tar or tar.gz of a PEFT folder")],
    label: Annotated[str, Form(max_length=64)] = "",
    note: Annotated[str, Form(max_length=2000)] = "",
) -> JSONResponse:
    """Register uploaded weights; the adapter's first version becomes its champion."""
    with tempfile.TemporaryDirectory(prefix="shoal-upload-") as scratch:
        packed = Path(scratch) / "archive"
        await _save(archive, packed, limit=parts.registry.settings.max_bytes)

        def register() -> Any:
            folder = unpack(packed, Path(scratch) / "unpacked", max_bytes=parts.registry.settings.max_bytes)
            return parts.registry.register(name, folder, by=caller, label=label, note=note)

        version, new = await asyncio.to_thread(register)
    return await registered(parts, name, version, new, by=caller)


async def registered(parts: Parts, name: str, version: Version, new: bool, *, by: str) -> JSONResponse:
    """What whoever adds a version is answered; the adapter's first one becomes its champion."""
    await _promote_first(parts, name, version.version, by=by)
    content = {"version": version.model_dump(mode="json"), "new": new}
    return JSONResponse(content, status_code=201 if new else 200)


@router.get("/{name}/versions/{version}")
def get_version(name: Name, version: int, parts: PartsOf, _: Caller) -> Any:
    return parts.registry.version(name, version)


@router.get("/{name}/versions/{version}/artifact")
def get_artifact(name: Name, version: int, parts: PartsOf, _: Caller) -> FileResponse:
    """The PEFT folder as a tar archive, with a word on which base it fits: an import elsewhere compares."""
    record = parts.registry.version(name, version)
    folder, base = parts.registry.artifacts.fetch(record.digest), None
    with suppress(BadInput):  # a base whose config cannot be read here is no reason to keep weights back
        base = parts.registry.base_shape()
    return ExportResponse(record, folder, base.config_digest if base else None)


@router.get("/{name}/lineage")
def get_lineage(name: Name, parts: PartsOf, _: Caller, version: int | None = None) -> Any:
    number = version if version is not None else parts.registry.rollout(name).champion
    return parts.registry.lineage(name, number or 0)


@router.get("/{name}/history")
def get_history(
    name: Name,
    parts: PartsOf,
    _: Caller,
    limit: Limit = 100,
    before: Before = None,
    at: str | None = None,
) -> Any:
    """Its events, newest first; or, with ``at``, what was live at that time."""
    if at is not None:
        found = parts.registry.rollout_at(name, moment(at))
        return found.model_dump(mode="json") | {
            "since": found.since.model_dump(mode="json") | {"sentence": str(found.since)}
        }
    events, more = page(parts.registry.history(name, limit=limit + 1, before=before), limit)
    told = [event.model_dump(mode="json") | {"sentence": str(event)} for event in events]
    return {"events": told, "next": events[-1].number if more else None}


@router.post("/{name}/promote")
async def promote(name: Name, body: Promote, parts: PartsOf, caller: Caller) -> Rollout:
    """Move the champion forward, once every live replica can serve the version."""
    async with ready(parts, name, body.version, due=await due_on(parts, name, body) is not None):
        rollout = await asyncio.to_thread(
            lambda: parts.registry.promote(name, body.version, by=caller, **body.conditions())
        )
        return await followed(parts, rollout)


@router.post("/{name}/rollback")
async def roll_back(name: Name, body: RollBack, parts: PartsOf, caller: Caller) -> Rollout:
    """Move the champion back; instant where the version is still loaded, as the one before the champion is where it has a
    place of its own. Else it is loaded first, as for any move."""
    from registry import rollout as rules

    how = body.conditions()
    for _ in range(RIVALS):
        target = None
        if (seen := await due_on(parts, name, body)) is not None:
            if body.to is not None:
                await asyncio.to_thread(parts.registry.version, name, body.to)
            target = rules.roll_back(seen, body.to, at=seen.moved_at).champion
            how["expected_revision"] = seen.revision  # the replicas are asked about this one's target, and no other
        with suppress(*(() if body.expected_revision is not None else (RolloutMoved,))):
            async with ready(parts, name, target or 0, due=target is not None):
                rollout = await asyncio.to_thread(lambda: parts.registry.roll_back(name, body.to, by=caller, **how))
                return await followed(parts, rollout)
    rollout = await asyncio.to_thread(lambda: parts.registry.roll_back(name, body.to, by=caller, **how))
    return await followed(parts, rollout)


@router.post("/{name}/canary")
async def canary(name: Name, body: Canary, parts: PartsOf, caller: Caller) -> Rollout:
    """Put a version on trial for a share of the traffic, or end the trial."""
    if body.version is None:
        rollout = await asyncio.to_thread(lambda: parts.registry.end_canary(name, by=caller, **body.conditions()))
        return await followed(parts, rollout)
    number = body.version
    async with ready(parts, name, number, due=await due_on(parts, name, body) is not None):
        rollout = await asyncio.to_thread(
            lambda: parts.registry.start_canary(
                name, number, body.share, by=caller, shadow=body.shadow, **body.conditions()
            )
        )
        return await followed(parts, rollout)


def _adapters(parts: Parts, who: auth.Caller, limit: int, after: str) -> list[Adapter]:
    """What a key that is limited to some adapters pages through is those alone."""
    if who.adapters is None:
        return parts.registry.adapters(limit, after)
    found: list[Adapter] = []
    for name in sorted(name for name in who.adapters if name > after):
        with suppress(AdapterUnknown):
            found.append(parts.registry.adapter(name))
        if len(found) == limit:
            break
    return found


async def _promote_first(parts: Parts, name: str, version: int, *, by: str) -> None:
    """Promote it, if there is no champion: from the revision at which there was none, for another upload may be faster. A pin or
    a policy may come between, too: then there is still none, and it is tried again."""
    for left in reversed(range(RIVALS)):
        seen = await asyncio.to_thread(parts.registry.rollout, name)
        if seen.champion is not None:
            return
        how: How = {"by": by, "reason": "the first version", "expected_revision": seen.revision}
        with suppress(*((RolloutMoved,) if left else ())):
            async with ready(parts, name, version):
                rollout = await asyncio.to_thread(parts.registry.promote, name, version, **how)
                await followed(parts, rollout)
                return


async def due_on(parts: Parts, name: str, body: MoveBody) -> Rollout | None:
    """The rollout that the move would change; None where it can no longer happen: it answers as the first time, or with 409,
    whatever the replicas say."""
    seen = await asyncio.to_thread(parts.registry.store.rollout, name, body.operation_id or "")
    possible = seen.answered is None and body.expected_revision in (None, seen.rollout.revision)
    return seen.rollout if possible else None


@asynccontextmanager
async def ready(parts: Parts, name: str, version: int, *, due: bool = True) -> AsyncIterator[None]:
    """Every live replica loads and probes the version first; one that cannot refuses the move with its reason. They keep it
    until the move inside is made. Not ``due``: nobody is asked."""
    if not due:
        yield
        return
    asked = asyncio.to_thread(parts.registry.ready, name, version, timeout=parts.settings.ready_timeout)
    if f"{name}@{version}" not in parts.replica.loaded:
        parts.replica.hint()
    seen = await asked
    try:
        yield
    finally:
        with suppress(RegistryDown):  # the wish ends by itself
            await asyncio.to_thread(parts.registry.replicas.withdraw, name, version, seen.asked)


async def followed(parts: Parts, rollout: Rollout) -> Rollout:
    """This replica answers by the new rollout before the caller hears of it."""
    await parts.replica.take(rollout)
    return rollout


async def _save(upload: UploadFile, path: Path, *, limit: int) -> None:
    size = 0
    with path.open("wb") as file:
        while chunk := await upload.read(CHUNK):
            size += len(chunk)
            if size > limit:
                raise TooLarge(f"The archive is larger than {limit >> 20} MiB (SHOAL_MAX_UPLOAD_MB).", limit=limit)
            file.write(chunk)
