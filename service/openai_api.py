"""The OpenAI-compatible routes: chat completions, completions, the list of models.

A request goes: read the body -> the gateway lets it in (a version is chosen and held) -> the engine answers -> the hold
is released -> the exchange is told to the gateway. Every answer, also an error, names its request (``x-request-id``)
and the version that gave it (``x-shoal-version``); every error has OpenAI's body.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from registry import logs
from registry.text import encodable
from service.engine import Answer, Engine, EngineError
from service.exchanges import Exchange, choices_of, prompt_of, read_events, sampling_of
from service.leases import Lease, LeasedStreamingResponse
from service.openai_errors import error_body, error_response
from service.spans import RequestSpan

log = logging.getLogger(__name__)

Ask = Callable[[dict[str, Any], str | None, str], Awaitable[Answer]]
SHADOW_SUFFIX = "-shadow"  # of the record of a trial's answer on the side; no caller's own id ends so
SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
CLIENT_CLOSED = 499  # nginx's number for a client that left; nobody is there to read it
SESSION_HEADER, VERSION_HEADER, REQUEST_HEADER = "x-shoal-session", "x-shoal-version", "x-request-id"


@dataclass(frozen=True, slots=True)
class Route:
    """Who answers: ``name`` is the engine's (None: the base), ``label`` what the client sees: ``support-bot@7``."""

    name: str | None
    label: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Admission:
    """A route, and the lease that keeps its version loaded; the base needs none."""

    route: Route
    lease: Lease | None


class NotAdmitted(EngineError):
    """A version was chosen, and cannot answer: counted as a request of ``version`` that failed."""

    def __init__(self, version: str, status: int, code: str | None, message: str) -> None:
        super().__init__(status, code, message, "model")
        self.version = version


class Gateway(Protocol):
    """What the routes need of the service. ``admit`` chooses and holds in one step: nothing may be unloaded between."""

    engine: Engine

    async def admit(self, request: Request, model: str, session: str | None) -> Admission:
        """Let a request in: authorise, choose the version, make it ready if it is not, hold it. Raises EngineError;
        NotAdmitted where it was the chosen version that failed."""

    async def models(self, request: Request) -> list[dict[str, Any]]:
        """The models that this caller may ask for, as OpenAI's model objects."""

    async def model(self, request: Request, name: str) -> dict[str, Any] | None:
        """One of them, or one that ``models`` leaves out for its age. None: there is none."""

    def span(self, request: Request, request_id: str) -> RequestSpan | None:
        """The request's span in a trace; None where nobody collects traces."""

    def on_answer(self, exchange: Exchange) -> None:
        """Told after an answer was sent, or broke off. On the event loop: it must not block and should not raise."""


def openai_router(gateway: Gateway) -> APIRouter:
    """``POST /v1/chat/completions``, ``POST /v1/completions``, ``GET /v1/models`` and ``GET /v1/models/{model}``."""
    router = APIRouter(tags=["openai"])

    @router.post("/v1/chat/completions", response_model=None)
    async def create_chat_completion(request: Request) -> Response:
        return await answer_chat(gateway, request)

    @router.post("/v1/completions", response_model=None)
    async def create_completion(request: Request) -> Response:
        return await answer_completion(gateway, request)

    @router.get("/v1/models", response_model=None)
    async def list_models(request: Request) -> Response:
        async def answer(request_id: str) -> Response:
            return JSONResponse({"object": "list", "data": await gateway.models(request)}, headers=_ids(request_id))

        return await _guarded(request, answer)

    @router.get("/v1/models/{model:path}", response_model=None)
    async def get_model(request: Request, model: str) -> Response:
        async def answer(request_id: str) -> Response:
            if (known := await gateway.model(request, model)) is not None:
                return JSONResponse(known, headers=_ids(request_id))
            raise EngineError(404, "model_not_found", f"The model `{model}` does not exist.", "model")

        return await _guarded(request, answer)

    return router


async def answer_chat(gateway: Gateway, request: Request) -> Response:
    """``POST /v1/chat/completions``: never raises, an error is a response too."""
    return await _guarded(request, lambda asked: _answer(gateway, gateway.engine.chat, request, asked))


async def answer_completion(gateway: Gateway, request: Request) -> Response:
    """``POST /v1/completions``: never raises, an error is a response too."""
    return await _guarded(request, lambda asked: _answer(gateway, gateway.engine.complete, request, asked))


async def _guarded(request: Request, answer: Callable[[str], Awaitable[Response]]) -> Response:
    """Whatever goes wrong becomes OpenAI's error body, with the request's id on it."""
    given = request.headers.get(REQUEST_HEADER, "")
    mine = not SANE_ID.fullmatch(given) or given.endswith(SHADOW_SUFFIX)
    request_id = f"req-{uuid.uuid4().hex}" if mine else given
    logs.bind(request_id=request_id)  # a request has a context of its own
    try:
        return await answer(request_id)
    except EngineError as error:
        return error_response(error, _ids(request_id))
    except ClientDisconnect:
        return Response(status_code=CLIENT_CLOSED)
    except Exception:
        log.exception("request %s failed", request_id)
        body = error_body(500, f"Internal error; it is in the log as {request_id}.", "internal_error")
        return JSONResponse(body, 500, _ids(request_id))


async def _answer(gateway: Gateway, ask: Ask, request: Request, request_id: str) -> Response:
    """With a span around it, where traces are collected."""
    span = gateway.span(request, request_id)
    if span is None:
        return await _answered(gateway, ask, request, request_id, gateway.on_answer)

    def tell(exchange: Exchange) -> None:
        gateway.on_answer(exchange)
        span.answered(exchange)

    try:
        response = await _answered(gateway, ask, request, request_id, tell)
    except ClientDisconnect:
        raise  # what there was of an answer is told
    except Exception as error:
        span.broke(error.status if isinstance(error, EngineError) else 500)
        raise
    span.responded(response)
    return response


async def _answered(
    gateway: Gateway, ask: Ask, request: Request, request_id: str, tell: Callable[[Exchange], None]
) -> Response:
    body = await _body(request)
    model, session = body["model"], _session(body, request)
    arrived, clock = time.time(), time.monotonic()

    def record(version: str) -> _Record:
        exchange = Exchange(
            request_id=request_id,
            model=model,
            version=version,
            session=session,
            prompt=prompt_of(body),
            sampling=sampling_of(body),
            started=arrived,
            seconds_to_admission=time.monotonic() - clock,
        )
        return _Record(exchange, tell, clock)

    try:
        admission = await gateway.admit(request, model, session)
    except NotAdmitted as error:
        logs.bind(version=error.version)
        record(error.version).failed(error.message)
        return error_response(error, {**_ids(request_id), VERSION_HEADER: error.version})
    route, lease = admission.route, admission.lease
    logs.bind(version=route.label)
    headers = {**_ids(request_id), **route.headers, VERSION_HEADER: route.label}
    told = record(route.label)
    streaming = False
    try:
        answer = await _until_client_leaves(request, ask(body, route.name, request_id))
        if isinstance(answer, dict):
            told.answered(answer)
            return JSONResponse(answer, headers=headers)
        response = LeasedStreamingResponse(told.watch(answer), lease, headers, told.streamed)
        streaming = True
        return response
    except EngineError as error:
        if error.status >= 500:
            told.failed(error.message)
        return error_response(error, headers)
    except ClientDisconnect:
        told.failed(None)
        raise
    finally:
        if lease is not None and not streaming:
            lease.release()


class _Record:
    """Collects one exchange; telling it is put off until the event loop has nothing more urgent."""

    def __init__(self, exchange: Exchange, tell: Callable[[Exchange], None], clock: float) -> None:
        self._exchange = exchange
        self._tell = tell
        self._clock = clock
        self._first: float | None = None
        self._events: list[str] = []
        self._ended = False

    def answered(self, answer: dict[str, Any]) -> None:
        self._finish(lambda: {"choices": choices_of(answer), **_tokens(answer.get("usage"))})

    def failed(self, error: str | None) -> None:
        self._finish(lambda: {"aborted": True, "error": error})

    async def watch(self, events: AsyncIterator[str]) -> AsyncIterator[str]:
        """Pass a stream on, keeping its events; an error in it gets OpenAI's shape."""
        try:
            async for event in events:
                if self._first is None:
                    self._first = time.monotonic() - self._clock
                shaped = _shaped(event) if event.startswith('data: {"error"') else event
                self._events.append(shaped)
                yield shaped
            self._ended = True
        except Exception as error:  # HTTP has said 200 already: what is left is an event that says otherwise
            if not isinstance(error, EngineError):
                log.exception("stream %s broke off", self._exchange.request_id)
                error = EngineError(500, "internal_error", "Internal error.")
            self._events.append(f"data: {json.dumps(error_body(error.status, error.message, error.code))}\n\n")
            yield self._events[-1]
            yield "data: [DONE]\n\n"
        finally:
            if close := getattr(events, "aclose", None):
                await close()

    def streamed(self) -> None:
        def parts() -> dict[str, Any]:
            choices, usage, error = read_events(self._events)
            broken = not self._ended or error is not None
            return {"choices": choices, "streamed": True, "aborted": broken, "error": error, **_tokens(usage)} | {
                "chunks": len(self._events)
            }

        self._finish(parts)

    def _finish(self, parts: Callable[[], dict[str, Any]]) -> None:
        seconds = time.monotonic() - self._clock

        def tell() -> None:
            try:
                told = replace(self._exchange, seconds=seconds, seconds_to_first=self._first, **parts())
                self._tell(told)
            except Exception:  # the answer has been sent: recording it may not become its error
                log.exception("exchange %s was not recorded", self._exchange.request_id)

        asyncio.get_running_loop().call_soon(tell)


async def _until_client_leaves(request: Request, answering: Awaitable[Answer]) -> Answer:
    """Await the engine, but stop it when the client disconnects: nobody would read the answer.

    The body has been read, so the next message that arrives is the disconnect."""
    answer = asyncio.ensure_future(answering)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        raise ClientDisconnect
    finally:
        gone.cancel()
        answer.cancel()
        await asyncio.gather(answer, gone, return_exceptions=True)  # the engine has let go before the lease does


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _body(request: Request) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        body = encodable(json.loads(await request.body(), parse_constant=refuse))
    except (ValueError, RecursionError) as error:
        raise EngineError(400, "invalid_json", f"The body is not valid JSON: {error}") from error
    if not isinstance(body, dict):
        raise EngineError(400, "invalid_json", "The body must be a JSON object.")
    if not isinstance(body.get("model"), str) or not body["model"]:
        raise EngineError(400, None, "you must provide a model parameter", "model")
    return body


def _session(body: dict[str, Any], request: Request) -> str | None:
    """Who stays with one version: ``x-shoal-session`` if given, else OpenAI's ``user``."""
    user = body.get("user")
    return request.headers.get(SESSION_HEADER) or (user if isinstance(user, str) else None) or None


def _ids(request_id: str) -> dict[str, str]:
    return {REQUEST_HEADER: request_id}


def _tokens(usage: dict[str, Any] | None) -> dict[str, int | None]:
    counted = usage or {}
    return {"prompt_tokens": counted.get("prompt_tokens"), "answer_tokens": counted.get("completion_tokens")}


def _shaped(event: str) -> str:
    """An engine's error event with OpenAI's body; an engine repeats the HTTP status as ``code``."""
    error = json.loads(event.removeprefix("data:"))["error"]
    status = error["code"] if isinstance(error.get("code"), int) else 500
    code = "engine_error" if status >= 500 else None
    return f"data: {json.dumps(error_body(status, str(error.get('message')), code, error.get('param')))}\n\n"
