"""Feedback: ratings, corrections, pairs and words, bound to the version that answered."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
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
from service.intake import Intake
from service.posts import Post, Told
from service.spool import Spool

router = APIRouter(prefix="/api/feedback", tags=["feedback"])
# The body is read by hand, for a thousand items at a time: what FastAPI would have told of it stands here, in its place.
_PLACE = "#/paths/~1api~1feedback/post/requestBody/content/application~1json/schema/$defs/{model}"
_SCHEMA = TypeAdapter(FeedbackBody | Batch | PartialBatch).json_schema(ref_template=_PLACE)
OPENAPI = {"requestBody": {"required": True, "content": {"application/json": {"schema": _SCHEMA}}}}


@router.post("", openapi_extra=OPENAPI, response_model=None)
async def send_feedback(request: Request, parts: PartsOf, who: Who) -> Response:
    """Keep feedback: one item, or a batch, which is taken as a whole or not at all; with ``partial`` each item by itself."""
    return await answer_post(await request.body(), parts, who)


async def answer_post(raw: bytes, parts: Parts, who: Caller) -> Response:
    """The answer to a post, whichever way it came in. ``ShoalError``."""
    body = _read(raw)
    if isinstance(body, FeedbackBody):
        return await _single(body.fields(who), parts, who)
    if isinstance(body, PartialBatch):
        return await _partial(body, parts, who)
    return await _batch(body, parts, who)


async def _single(fields: Fields, parts: Parts, who: Caller) -> Response:
    """One item; it is stored together with others that come at the same time."""
    try:
        kept = await parts.posts.add(fields, who)
    except InteractionUnknown:  # it came right behind its answer, which may not be recorded yet
        await _wait_recorded(parts)
        kept = await parts.posts.add(fields, who)
    if isinstance(kept, str):
        return _answer({"spooled": 1, "items": [{"id": kept, "spooled": True}]}, 202)
    return _answer(_told(kept), 201 if kept[1] else 200)


async def _batch(body: Batch, parts: Parts, who: Caller) -> Response:
    fields = [item.fields(who) for item in body.items]
    try:
        await _check_guard(parts)
        kept = await _settled(parts, fields, who)
    except (RegistryDown, RegistryWentBack):
        _need_adapters(fields, who)
        await asyncio.to_thread(_spool, parts, fields)
        return _answer({"spooled": len(fields), "items": [_waits(item) for item in fields]}, 202)
    count(kept)
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
            told[place] = _refused(error).body()
        except ShoalError as error:
            told[place] = error.body()
    fields = list(good.values())
    answer: dict[str, int] = {}
    try:
        await _check_guard(parts)
        found = await _each_settled(parts, fields, who)
    except (RegistryDown, RegistryWentBack):
        _need_adapters(fields, who)
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


def keep_posts(posts: Sequence[Post], intake: Intake, spool: Spool, guarded: Callable[[], bool]) -> list[Told]:
    """What becomes of single posts that are kept together: ``Posts`` calls it in a thread. ``guarded``: whether the registry
    is in doubt and to be asked."""
    fields, callers = [item for item, _ in posts], [who for _, who in posts]
    try:
        if guarded():
            intake.check_registry()
        kept = intake.take_each(fields, callers)
    except (RegistryDown, RegistryWentBack) as error:
        return _spooled(posts, intake, spool, error)
    count([one for one in kept if not isinstance(one, ShoalError)])
    return list(kept)


def _spooled(posts: Sequence[Post], intake: Intake, spool: Spool, down: ShoalError) -> list[Told]:
    told: list[Told] = [down] * len(posts)
    good: list[Fields] = []
    for place, (fields, who) in enumerate(posts):
        try:
            _need_adapters([fields], who)
            good += intake.redacted([fields])
            told[place] = fields["id"]
        except ShoalError as error:
            told[place] = error
    if good:
        spool.add(good)
    return told


def count(kept: list[Kept]) -> None:
    """For Prometheus."""
    from service import metrics

    for adapter, new in Counter(record.adapter for record, new in kept if new).items():
        metrics.FEEDBACK.labels(adapter).inc(new)


def _need_adapters(fields: list[Fields], who: Caller) -> None:
    """``RegistryDown`` to a key that is limited, where whose answer a request id names cannot be looked up now."""
    if who.adapters is not None and any(item.get("adapter") not in who.adapters for item in fields):
        raise RegistryDown("whose answer this judges cannot be looked up")


def _read(raw: bytes) -> FeedbackBody | Batch | PartialBatch:
    """One item, or a batch: told by the field that only a batch has. ``BadInput``."""
    try:
        given = from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        raise BadInput("the body is not valid JSON", problems=[{"field": "", "problem": str(error)}]) from None
    shape: type[FeedbackBody | Batch | PartialBatch] = FeedbackBody
    if isinstance(given, dict) and "items" in given:
        shape = PartialBatch if given.get("partial") is True else Batch
    try:
        return shape.model_validate(given)
    except ValidationError as error:
        raise _refused(error) from None


def _refused(error: ValidationError) -> BadInput:
    problems = problems_of(error.errors(include_url=False, include_input=False))
    return BadInput(told_of(problems), problems=problems)


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
    found = await asyncio.to_thread(parts.intake.take_each, fields, [who] * len(fields))
    if early := [place for place, one in enumerate(found) if isinstance(one, InteractionUnknown)]:
        await _wait_recorded(parts)
        again = await asyncio.to_thread(parts.intake.take_each, [fields[place] for place in early], [who] * len(early))
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
