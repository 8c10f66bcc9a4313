"""Workers: who is there, and what each is doing."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from registry.records import Worker
from service import auth
from service.api.parts import Parts, PartsOf, Who

router = APIRouter(prefix="/api/workers", tags=["workers"])


@router.get("")
def list_workers(parts: PartsOf, who: Who) -> Any:
    """Every worker that is alive: they are everybody's. A caller who may not see an adapter is not told that a worker is at a
    run of it; such a worker looks as one that is at nothing."""
    return {"workers": [_seen(worker, parts, who) for worker in parts.registry.workers.live()]}


def _seen(worker: Worker, parts: Parts, who: auth.Caller) -> Worker:
    run = parts.registry.runs.find(worker.run) if worker.run else None
    if worker.run is None or (run and who.sees(run.spec.adapter)):
        return worker
    return worker.model_copy(update={"run": None, "step": "", "slice": None, "began": None})
