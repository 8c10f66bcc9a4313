"""An adapter's feedback as a file."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import StreamingResponse

from registry.feedback_export import Format, export
from registry.records import AdapterName
from service.api.parts import PartsOf, Who

router = APIRouter(prefix="/api/feedback", tags=["feedback"])
TYPES: dict[Format, str] = {"jsonl": "application/x-ndjson", "parquet": "application/vnd.apache.parquet"}


@router.get("/export", response_model=None)
def export_feedback(
    parts: PartsOf, who: Who, adapter: AdapterName, format_: Annotated[Format, Query(alias="format")] = "jsonl"
) -> StreamingResponse:
    """Everything, oldest first, while it is read; a stream that breaks off says so by ending without its last chunk."""
    who.need_adapter(adapter)
    parts.registry.adapter(adapter)
    named = f'attachment; filename="{adapter}-feedback.{format_}"'
    pieces = export(parts.registry.feedback, adapter, format_)
    return StreamingResponse(pieces, media_type=TYPES[format_], headers={"content-disposition": named})
