"""Between OpenAI's routes and the replica: let a request in, name the models, take in what was answered."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from fastapi import Request

from registry.errors import ArtifactMissing, NotFound, RegistryDown, ShoalError
from registry.records import Interaction as Recorded
from registry.records import Message
from service import request_log
from service.api.parts import Parts
from service.arrivals import ARRIVAL_ERRORS
from service.auth import Caller
from service.engine import Engine, EngineError
from service.exchanges import Exchange
from service.gate import caller_of
from service.openai_api import Admission, NotAdmitted, Route
from service.residents import NoRoom, ResidentError
from service.routing import ModelId, parse
from service.shadow import Shadow
from service.spans import RequestSpan, Spans

BASE = "base"
LISTED = 100  # the newest versions of an adapter that the list of models names; older ones answer all the same


class ShoalGateway:
    """The ``Gateway`` of ``service/openai_api.py`` over one replica."""

    def __init__(
        self, parts: Parts, engine: Engine, *, base_names: tuple[str, ...], spans: Spans | None = None
    ) -> None:
        self.engine = engine
        self._spans = spans
        self._parts = parts
        self._replica = parts.replica
        self._base_names = base_names
        self.shadow = Shadow(parts.replica, engine, parts.tally, self.record)
        self._started = int(datetime.now(UTC).timestamp())

    async def admit(self, request: Request, model: str, session: str | None) -> Admission:
        """Authorise, choose the version, hold it. Raises EngineError only, as OpenAI's clients expect it."""
        caller = _caller(request)
        if model in self._base_names:
            return Admission(Route(None, BASE), None)
        named = parse(model)
        if named is None or not caller.sees(named.adapter):
            raise _unknown(model)  # to a key that is limited, other adapters are as unknown as those that are not there
        try:
            number = self._replica.choose(named, session)  # here, so that the one that fails can be named
            held = await self._replica.hold(ModelId(named.adapter, number), session)
        except NotFound as error:
            raise _unknown(model) from error
        except ARRIVAL_ERRORS as error:
            raise _refused(f"{named.adapter}@{number}", error) from error
        return Admission(Route(held.name, held.name), held.lease)

    async def models(self, request: Request) -> list[dict[str, Any]]:
        """The base, every adapter, every version that is on the way of a rollout, and the newest ones."""
        caller = _caller(request)
        known = [self._model(name, None) for name in self._base_names]
        newest: dict[str, list[int]] = {}
        with suppress(ShoalError):  # Redis is gone: what this replica serves by itself is still worth listing
            newest = await asyncio.to_thread(self._parts.registry.newest, LISTED)
        for adapter, rollout in sorted(self._replica.rollouts.items()):
            if not caller.sees(adapter):
                continue
            known.append(self._model(adapter, BASE))
            numbers = {*rollout.pinned, *newest.get(adapter, ())}
            known += [self._model(f"{adapter}@{number}", BASE) for number in sorted(numbers)]
        return known

    async def model(self, request: Request, name: str) -> dict[str, Any] | None:
        """One of the models, also a version that is too old for the list; None: there is none of that name."""
        caller = _caller(request)
        if name in self._base_names:
            return self._model(name, None)
        named = parse(name)
        rollout = self._replica.rollout(named.adapter) if named else None
        if named is None or rollout is None or not caller.sees(named.adapter):
            return None
        if named.version is None:
            return self._model(name, BASE) if name == named.adapter else None
        if named.version not in rollout.pinned:
            try:
                found = await asyncio.to_thread(self._parts.registry.version, named.adapter, named.version)
            except NotFound:
                return None
            except ShoalError as error:
                raise EngineError(error.status, error.code, error.message, "model") from error
            if found.retired:
                return None
        return self._model(name, BASE)

    def span(self, request: Request, request_id: str) -> RequestSpan | None:
        """The request's span in a trace; None where nobody collects traces."""
        return self._spans.begin(request, request_id) if self._spans else None

    def on_answer(self, exchange: Exchange) -> None:
        """Count it by version, ask a trial in the shadow, and hand it to the recorder where prompts may be kept."""
        self._parts.tally.answered(exchange)
        request_log.tell(exchange)
        self.record(exchange)
        self.shadow.offer(exchange)

    def record(self, exchange: Exchange) -> None:
        """Keep an answer where prompts may be kept, so that feedback can name it."""
        adapter, named, _ = exchange.version.rpartition("@")
        if not named or exchange.aborted or not exchange.choices:
            return  # the base's answers, and those that nobody got, cannot be rated later
        record = _recorded(exchange)
        if record is not None:
            self._parts.recorder.record(record)
        else:
            self._parts.recorder.unrecordable(adapter, exchange.request_id)

    def _model(self, name: str, parent: str | None) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._started, "owned_by": "shoal", "parent": parent}


def _caller(request: Request) -> Caller:
    try:
        return caller_of(request.scope)
    except ShoalError as error:
        raise EngineError(error.status, "invalid_api_key", error.message) from error


def _refused(version: str, error: ShoalError | ResidentError | EngineError) -> EngineError:
    """What the client is told; NotAdmitted where it is the version that failed, and not Redis."""
    if isinstance(error, NoRoom):
        return NotAdmitted(version, 503, "no_room", f"{error.name} cannot be loaded now: {error.reason}")
    if isinstance(error, ResidentError):
        return NotAdmitted(version, 409, "version_not_servable", f"{error.name} cannot be served: {error.reason}")
    status = 503 if isinstance(error, ArtifactMissing) else error.status
    if status >= 500 and not isinstance(error, RegistryDown):
        return NotAdmitted(version, status, error.code, error.message)
    return EngineError(status, error.code, error.message, "model")


def _unknown(model: str) -> EngineError:
    return EngineError(
        404,
        "model_not_found",
        f"The model `{model[:200]}` does not exist. GET /v1/models lists those there are.",
        "model",
    )


def _recorded(exchange: Exchange) -> Recorded | None:
    """The record that feedback can name; None where the prompt is not text."""
    adapter, _, number = exchange.version.rpartition("@")
    messages = prompt = None
    if isinstance(exchange.prompt, str):
        prompt = exchange.prompt
    elif isinstance(exchange.prompt, list | tuple) and all(
        isinstance(message, dict) and isinstance(message.get("content"), str) for message in exchange.prompt
    ):
        messages = tuple(Message(role=str(m.get("role", "user")), content=m["content"]) for m in exchange.prompt)
    else:
        return None
    first = exchange.choices[0]
    return Recorded(
        request_id=exchange.request_id,
        adapter=adapter,
        version=int(number),
        messages=messages,
        prompt=prompt,
        answer=first.text,
        sampling=dict(exchange.sampling),
        finish_reason=first.finish_reason,
        at=datetime.fromtimestamp(exchange.started, UTC),
        seconds=exchange.seconds,
        shadow=exchange.shadow,
        conversation=exchange.session,
    )
