"""Feedback: ratings, corrections and pairs, bound to the version that answered."""

from __future__ import annotations

import asyncio
import secrets
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import Discriminator, Field, Tag, ValidationError, model_validator
from starlette.responses import JSONResponse

from registry.errors import BadInput, InteractionUnknown, RegistryDown, RegistryWentBack
from registry.feedback import join
from registry.records import AdapterName, Feedback, Message, now
from registry.registry import Registry
from service import auth
from service.api.parts import Body, Parts, PartsOf, Who

router = APIRouter(prefix="/api/feedback", tags=["feedback"])
MOST = 1000
TEXT = 100_000
THUMBS = {"up": 1.0, "down": 0.0}


class FeedbackBody(Body):
    """One judgement of one answer: by request id, or with the prompt and the answer inline."""

    id: str | None = Field(default=None, min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._:-]+$")
    request_id: str | None = Field(default=None, min_length=1, max_length=128)
    adapter: AdapterName | None = None
    version: int | None = Field(default=None, ge=1)
    messages: list[Message] | None = Field(default=None, min_length=1)
    prompt: str | None = Field(default=None, min_length=1, max_length=TEXT)
    answer: str | None = Field(default=None, max_length=TEXT)
    rating: Annotated[float, Field(ge=0, le=1)] | Literal["up", "down"] | None = None
    correction: str | None = Field(default=None, max_length=TEXT)
    preferred: str | None = Field(default=None, max_length=TEXT)
    rejected: str | None = Field(default=None, max_length=TEXT)
    rater: str = Field(default="anonymous", max_length=128)
    comment: str = Field(default="", max_length=TEXT)

    @model_validator(mode="after")
    def _judges_something(self) -> FeedbackBody:
        if (self.preferred is None) != (self.rejected is None):
            raise ValueError("'preferred' and 'rejected' come together")
        if self.rating is None and self.correction is None and self.preferred is None:
            raise ValueError("give a 'rating', a 'correction', or 'preferred' and 'rejected'")
        if self.request_id is None:
            if self.adapter is None or (self.prompt is None) == (self.messages is None):
                raise ValueError("give a 'request_id', or 'adapter' and either 'prompt' or 'messages'")
            if self.rating is not None and self.answer is None:
                raise ValueError("a 'rating' without a 'request_id' needs the 'answer' that it rates")
        return self


class Batch(Body):
    items: list[FeedbackBody] = Field(min_length=1, max_length=MOST)


def _shape(body: Any) -> str:
    """One item, or a batch: told by the field that only a batch has."""
    return "many" if isinstance(body, Batch) or (isinstance(body, dict) and "items" in body) else "one"


OneOrMany = Annotated[Annotated[FeedbackBody, Tag("one")] | Annotated[Batch, Tag("many")], Discriminator(_shape)]


@router.post("")
async def send_feedback(body: OneOrMany, parts: PartsOf, who: Who) -> JSONResponse:
    """Keep feedback; a batch is taken as a whole or not at all."""
    items = body.items if isinstance(body, Batch) else [body]
    fields = [_fields(item) for item in items]
    try:
        if parts.replica.problems:  # a registry that went back is about to be restored: what it took would be lost
            await asyncio.to_thread(parts.registry.guard.check)
        kept = await _take_settled(parts, fields, who)
    except (RegistryDown, RegistryWentBack):
        if who.adapters is not None and any(field["adapter"] not in who.adapters for field in fields):
            raise  # whose answer a request id names cannot be looked up now
        await asyncio.to_thread(parts.spool.add, fields)
        told = [{"id": field["id"], "spooled": True} for field in fields]
        return JSONResponse({"spooled": len(told), "items": told}, status_code=202)
    _count(kept)
    told = [{"feedback": record.model_dump(mode="json"), "new": new} for record, new in kept]
    if not isinstance(body, Batch):
        return JSONResponse(told[0], status_code=201 if kept[0][1] else 200)
    accepted = sum(new for _, new in kept)
    return JSONResponse({"accepted": accepted, "repeated": len(kept) - accepted, "items": told}, status_code=201)


async def _take_settled(parts: Parts, fields: list[dict[str, Any]], who: auth.Caller) -> list[tuple[Feedback, bool]]:
    """Keep feedback; where it came right behind its answer, once the answer is recorded."""
    try:
        return await asyncio.to_thread(take, parts.registry, fields, who)
    except InteractionUnknown:
        if parts.recorder is None:
            raise
        await asyncio.sleep(0.05)  # the end of a stream is told after its last byte was sent
        await asyncio.to_thread(parts.recorder.settle)
        return await asyncio.to_thread(take, parts.registry, fields, who)


@router.get("")
def list_feedback(
    parts: PartsOf,
    who: Who,
    adapter: AdapterName,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    before: str | None = None,
) -> Any:
    who.need_adapter(adapter)
    parts.registry.adapter(adapter)
    return {
        "feedback": parts.registry.feedback.list(adapter, limit=limit, before=before),
        "total": parts.registry.feedback.count(adapter),
    }


def take(
    registry: Registry, fields: list[dict[str, Any]], who: auth.Caller | None = None
) -> list[tuple[Feedback, bool]]:
    """Join feedback by request id with the answer it judges, and keep it; all of it is for adapters that ``who`` may rate.

    AdapterUnknown, InteractionUnknown, FeedbackConflict: nothing was kept."""
    records = [_record(registry, dict(item)) for item in fields]
    for adapter in {record.adapter for record in records}:
        if who is not None:
            who.need_adapter(adapter)
        registry.adapter(adapter)
    return registry.feedback.add_many(records)


def take_spooled(registry: Registry, fields: list[dict[str, Any]]) -> None:
    """As ``take``, for what was acknowledged while Redis was away. ``RegistryWentBack``: it stays spooled."""
    registry.guard.check()
    _count(take(registry, fields))


def _record(registry: Registry, fields: dict[str, Any]) -> Feedback:
    try:
        if fields["request_id"] is None:
            return Feedback(**fields)
        interaction = registry.interactions.get(fields["request_id"])
        if fields["adapter"] not in (None, interaction.adapter):
            raise BadInput(
                f"Request '{interaction.request_id}' was answered by '{interaction.adapter}', not '{fields['adapter']}'.",
                field="adapter",
            )
        return join(fields, interaction)
    except ValidationError as error:
        # Not the error itself: pydantic repeats what was sent, and prompts belong in no log and no message.
        wrong = "; ".join(
            f"'{'.'.join(map(str, one['loc']))}': {one['msg']}" for one in error.errors(include_input=False)
        )
        raise BadInput(f"The feedback is not usable: {wrong}") from None


def _fields(item: FeedbackBody) -> dict[str, Any]:
    """The fields of a record: JSON values only, so that they can be spooled."""
    rating = THUMBS.get(item.rating, item.rating) if isinstance(item.rating, str) else item.rating
    return item.model_dump(mode="json") | {
        "id": item.id or f"fb-{secrets.token_hex(8)}",
        "rating": rating,
        "at": now().isoformat(),
    }


def _count(kept: list[tuple[Feedback, bool]]) -> None:
    from service import metrics

    for record, new in kept:
        if new:
            metrics.FEEDBACK.labels(record.adapter).inc()
