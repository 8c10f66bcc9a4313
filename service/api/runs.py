"""Runs: start one, watch it, cancel it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BeforeValidator
from starlette.responses import StreamingResponse

from registry.adaptation import begin
from registry.records import AdapterName, Run, RunSpec
from registry.text import encodable
from service import auth
from service.api.parts import Caller, Parts, PartsOf, Who, page

router = APIRouter(prefix="/api/runs", tags=["runs"])
POLL_SECONDS = 0.25
KEEP_ALIVE_SECONDS = 5.0


@router.post("", status_code=201)
def start_run(spec: Annotated[RunSpec, BeforeValidator(encodable)], parts: PartsOf, caller: Caller, who: Who) -> Run:
    """Freeze a snapshot of the adapter's feedback and search on it. The workers take it from here."""
    who.need_adapter(spec.adapter)
    run = begin(parts.registry, spec, by=caller)
    parts.bell.advance(run.id)
    return run


@router.get("")
def list_runs(
    parts: PartsOf,
    who: Who,
    adapter: AdapterName | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    before: Annotated[str | None, Query(max_length=64)] = None,
) -> Any:
    """A page, newest first; ``next`` is the ``before`` of the page behind it."""
    if adapter is not None:
        who.need_adapter(adapter)
    runs = parts.registry.runs
    if adapter is None and who.adapters is not None:  # what such a key pages through is the runs that it may see
        listed = runs.of(who.adapters, limit + 1, before)
    else:
        listed = runs.list(adapter, limit + 1, before)
    found, more = page([*listed], limit)
    return {"runs": found, "next": found[-1].id if more else None}


@router.get("/{run_id}")
def get_run(run_id: str, parts: PartsOf, who: Who) -> Run:
    return _seen(parts.registry.runs.get(run_id), who)


@router.post("/{run_id}/cancel")
def cancel_run(run_id: str, parts: PartsOf, caller: Caller, who: Who) -> Run:
    """End a run; a slice in work stops between two positions. What it registered stays, its champion does not move, unless it
    is moving this very moment: then the run is answered as it is, and ends as promoted."""
    _seen(parts.registry.runs.get(run_id), who)
    return parts.registry.runs.cancel(run_id, outcome=f"Cancelled by {caller}.")


@router.get("/{run_id}/events")
async def run_events(run_id: str, request: Request, parts: PartsOf, who: Who) -> StreamingResponse:
    """Server-sent events: the run at every change, until it ends. An event's id is the run's revision: a reader that comes back
    with ``Last-Event-ID``, as browsers do, is told what came after it. A replica that is told to stop ends the stream."""
    # Unknown is a 404, not a stream that breaks off.
    _seen(await asyncio.to_thread(parts.registry.runs.get, run_id), who)
    last = request.headers.get("last-event-id", "")
    seen = int(last) if last.isascii() and last.isdigit() else -1
    return StreamingResponse(_events(parts, run_id, request, seen), media_type="text/event-stream")


def _seen(run: Run, who: auth.Caller) -> Run:
    who.need_adapter(run.spec.adapter)
    return run


async def _events(parts: Parts, run_id: str, request: Request, seen: int) -> AsyncIterator[str]:
    """Asked for again and again rather than waited for: a watcher must not hold one of the few threads that moves need, too."""
    place, silent, drain = "0", 0.0, request.app.state.drain
    while not (drain.stopping or await request.is_disconnected()):  # a run lasts longer than a stop may
        place, states = await asyncio.to_thread(parts.registry.runs.changes_after, run_id, place)
        for run in states:
            if run.revision > seen:
                yield f"id: {run.revision}\nevent: run\ndata: {run.model_dump_json()}\n\n"
            if not run.going:
                return
        silent = 0.0 if states else silent + POLL_SECONDS
        if silent >= KEEP_ALIVE_SECONDS:
            silent = 0.0
            yield ": still going\n\n"
        await asyncio.sleep(POLL_SECONDS)
