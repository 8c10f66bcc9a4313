"""Versions that come from an address: the Hugging Face Hub, S3, whatever else the operator allows."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Field
from starlette.responses import JSONResponse

from registry.sources import fetch
from service.api.adapters import Name, registered
from service.api.parts import Body, Caller, PartsOf

router = APIRouter(prefix="/api/adapters", tags=["adapters"])


class Import(Body):
    """``source``: ``hf://org/name[@revision]``, or the URL of a PEFT folder or of an archive of one."""

    source: str
    label: Annotated[str, Field(max_length=64)] = ""
    note: Annotated[str, Field(max_length=2000)] = ""


@router.post("/{name}/versions/import")
async def import_version(name: Name, body: Import, parts: PartsOf, caller: Caller) -> JSONResponse:
    """Fetch weights and register them; where anything is refused or cannot be reached, nothing is."""
    with tempfile.TemporaryDirectory(prefix="shoal-import-") as scratch:

        def register() -> Any:
            arrived = fetch(body.source, Path(scratch) / "arrived", parts.registry.settings)
            return parts.registry.register(
                name, arrived.folder, by=caller, label=body.label, note=body.note, source=arrived.source
            )

        version, new = await asyncio.to_thread(register)
    return await registered(parts, name, version, new, by=caller)
