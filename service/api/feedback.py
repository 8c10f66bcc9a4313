"""Feedback: ratings, corrections, pairs and words, bound to the version that answered."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json, to_json
from starlette.responses import Response

from registry.errors import BadInput, InteractionUnknown, RegistryDown, RegistryWentBack, ShoalError
from registry.feedback import Kept
from registry.records import AdapterName
from service.api.errors import problems_of, told_of
from service.api.parts import Parts, PartsOf, Who
from service.auth import Caller
from service.feedback_body import Batch, FeedbackBody, Fields, PartialBatch

router = APIRouter(prefix="/api/feedback", tags=["feedback"])
# The body is read by hand, for a thousand items at a time: what FastAPI would have told of it stands here, in its place.
_PLACE = "#/paths/~1api~1feedback/post/requestBody/content/application~1json/schema/$defs/{model}"
_SCHEMA = TypeAdapter(FeedbackBody | Batch | PartialBatch).json_schema(ref_template=_PLACE)
OPENAPI = {"requestBody": {"required": True, "content": {"application/json": {"schema": _SCHEMA}}}}


@router.post("", openapi_extra=OPENAPI, response_model=None)
async def send_feedback(request: Request, parts: PartsOf, who: Who) -> Response:
    """Keep feedback: one item, or a batch, which is taken as a whole or not at all; with ``partial`` each item by itself."""
    body = _read(await request.body())
    if isinstance(body, PartialBatch):
        return await _partial(body, parts, who)
    items = body.items if isinstance(body, Batch) else [body]
    fields = [item.fields(who) for item in items]
    try:
        await _check_guard(parts)
        kept = await _settled(parts, fields, who)
    except (RegistryDown, RegistryWentBack):
        if who.adapters is not None and any(item.get("adapter") not in who.adapters for item in fields):
            raise  # whose answer a request id names cannot be looked up now
        await asyncio.to_thread(_spool, parts, fields)
        return _answer({"spooled": len(fields), "items": [_waits(item) for item in fields]}, 202)
    count(kept)
    if isinstance(body, FeedbackBody):
        return _answer(_told(kept[0]), 201 if kept[0][1] else 200)
    accepted = sum(new for _, new in kept)
    return _answer({"accepted": accepted, "repeated": len(kept) - accepted, "items": [_told(one) for one in kept]}, 201)


async def _partial(body: PartialBatch, parts: Parts, who: Caller) -> Response:
    """Each item by itself: kept, known already, on disk until Redis is back, or refused for a reason of its own."""
    told: list[dict[str, Any]] = [{}] * len(body.items)
    good: dict[int, Fields] = {}
    for place, item in enumerate(body.items):
        try:
            good[place] = FeedbackBody.model_validate(item).fields(who)
        except ValidationError as error:
            problems = problems_of(error.errors(include_url=False, include_input=False))
            told[place] = BadInput(told_of(problems), problems=problems).body()
        except ShoalError as error:
            told[place] = error.body()
    fields = list(good.values())
    answer: dict[str, int] = {}
    try:
        await _check_guard(parts)
        found = await _each_settled(parts, fields, who)
    except (RegistryDown, RegistryWentBack):
        if who.adapters is not None and any(item.get("adapter") not in who.adapters for item in fields):
            raise
        await asyncio.to_thread(_spool, parts, fields)
        answer["spooled"] = len(fields)
        told_now = [_waits(item) for item in fields]
    else:
        kept = [one for one in found if not isinstance(one, ShoalError)]
        count(kept)
        answer["accepted"] = sum(new for _, new in kept)
        answer["repeated"] = len(kept) - answer["accepted"]
        told_now = [one.body() if isinstance(one, ShoalError) else _told(one) for one in found]
    for place, one in zip(good, told_now, strict=True):
        told[place] = one
    answer["refused"] = sum("error" in one for one in told)
    return _answer({**answer, "items": told}, 202 if "spooled" in answer else 201)


@router.get("")
def list_feedback(
    parts: PartsOf,
    who: Who,
    adapter: AdapterName,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    before: str | None = None,
) -> Any:
    """Newest first; ``superseded_by`` says which part of an item a later one of the same rater replaced."""
    who.need_adapter(adapter)
    parts.registry.adapter(adapter)
    log = parts.registry.feedback
    found = log.list(adapter, limit=limit, before=before)
    replaced = log.superseded(adapter, [one.id for one in found])
    return {
        "feedback": [
            one.model_dump(mode="json") | {"superseded_by": by} for one, by in zip(found, replaced, strict=True)
        ],
        "total": log.count(adapter),
        "superseded": log.superseded_count(adapter),
    }


def count(kept: list[Kept]) -> None:
    """For Prometheus."""
    from service import metrics

    for record, new in kept:
        if new:
            metrics.FEEDBACK.labels(record.adapter).inc()


def _read(raw: bytes) -> FeedbackBody | Batch | PartialBatch:
    """One item, or a batch: told by the field that only a batch has. ``RequestValidationError``."""
    try:
        given = from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        raise RequestValidationError(
            [{"type": "json_invalid", "loc": ("body",), "msg": str(error), "input": {}}]
        ) from None
    shape: type[FeedbackBody | Batch | PartialBatch] = FeedbackBody
    if isinstance(given, dict) and "items" in given:
        shape = PartialBatch if given.get("partial") is True else Batch
    try:
        return shape.model_validate(given)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False)) from None


async def _check_guard(parts: Parts) -> None:
    if parts.replica.problems:  # a registry that went back is about to be restored: what it took would be lost
        await asyncio.to_thread(parts.registry.guard.check)


async def _settled(parts: Parts, fields: list[Fields], who: Caller) -> list[Kept]:
    """Keep feedback; where it came right behind its answer, once the answer is recorded."""
    try:
        return await asyncio.to_thread(parts.intake.take, fields, who)
    except InteractionUnknown:
        await _wait_recorded(parts)
        return await asyncio.to_thread(parts.intake.take, fields, who)


async def _each_settled(parts: Parts, fields: list[Fields], who: Caller) -> list[Kept | ShoalError]:
    """As ``_settled``, for each item by itself."""
    found = await asyncio.to_thread(parts.intake.take_each, fields, who)
    if early := [place for place, one in enumerate(found) if isinstance(one, InteractionUnknown)]:
        await _wait_recorded(parts)
        again = await asyncio.to_thread(parts.intake.take_each, [fields[place] for place in early], who)
        for place, one in zip(early, again, strict=True):
            found[place] = one
    return found


async def _wait_recorded(parts: Parts) -> None:
    await asyncio.sleep(0.05)  # the end of a stream is told after its last byte was sent
    await asyncio.to_thread(parts.recorder.settle)


def _spool(parts: Parts, fields: list[Fields]) -> None:
    if fields:
        parts.spool.add(parts.intake.redacted(fields))


def _waits(item: Fields) -> dict[str, Any]:
    return {"id": item["id"], "spooled": True}


def _told(kept: Kept) -> dict[str, Any]:
    return {"feedback": kept[0], "new": kept[1]}


def _answer(told: dict[str, Any], status: int) -> Response:
    return Response(to_json(told), status, media_type="application/json")
