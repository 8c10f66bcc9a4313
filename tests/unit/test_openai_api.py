"""The OpenAI routes: every answer names its version and request, every error has OpenAI's body, no lease is left."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request

from registry.tracing import Span
from service.engine import EngineError, EngineSettings, EngineUnavailable
from service.engines.stub import StubEngine
from service.exchanges import Exchange
from service.leases import Leases
from service.openai_api import Admission, NotAdmitted, Route, openai_router
from service.openai_path import OpenAIPath
from service.spans import RequestSpan, Spans
from tests.contract.tiny_adapter import make_adapter

MESSAGES = [{"role": "user", "content": "how are you today"}]


class Keeps:
    """A tracer that keeps what it is told."""

    def __init__(self, spans: list[Span]) -> None:
        self.tell = spans.append


class OneAdapterGateway:
    """A gateway with one adapter, ``bot``, whose version 7 answers."""

    def __init__(self) -> None:
        self.engine = StubEngine(EngineSettings(base="none"))
        self.leases = Leases()
        self.told: list[Exchange] = []
        self.sessions: list[str | None] = []
        self.loading = 0.0  # seconds until a version is there
        self.spans: Spans | None = None  # None: nobody collects traces

    async def admit(self, request: Request, model: str, session: str | None) -> Admission:
        self.sessions.append(session)
        await asyncio.sleep(self.loading)
        if model == "base":
            return Admission(Route(None, "base"), None)
        if model == "broken":
            raise NotAdmitted("bot@8", 503, "artifact_missing", "It cannot be read.")
        if model != "bot":
            raise EngineError(404, "model_not_found", f"The model `{model}` does not exist.", "model")
        return Admission(Route("bot@7", "bot@7", {"x-shoal-role": "champion"}), self.leases.hold("bot@7"))

    async def models(self, request: Request) -> list[dict[str, Any]]:
        return [{"id": "bot", "object": "model", "created": 0, "owned_by": "shoal"}]

    async def model(self, request: Request, name: str) -> dict[str, Any] | None:
        return next((known for known in await self.models(request) if known["id"] == name), None)

    def span(self, request: Request, request_id: str) -> RequestSpan | None:
        return self.spans.begin(request, request_id) if self.spans else None

    def on_answer(self, exchange: Exchange) -> None:
        self.told.append(exchange)


@pytest.fixture
async def gateway(tmp_path: Path) -> OneAdapterGateway:
    made = OneAdapterGateway()
    await made.engine.start()
    await made.engine.add("bot@7", make_adapter(tmp_path / "bot", 1))
    return made


@pytest.fixture(params=["router", "short way"])
async def client(gateway: OneAdapterGateway, request: pytest.FixtureRequest) -> AsyncIterator[httpx.AsyncClient]:
    """The routes as FastAPI has them, and as the service answers them before FastAPI is asked."""
    app: Any = FastAPI()
    app.include_router(openai_router(gateway))
    if request.param == "short way":
        app = OpenAIPath(app, gateway)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shoal") as made:
        yield made


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "bot", "messages": MESSAGES, **more}


async def test_an_answer_names_its_version_and_its_request(
    client: httpx.AsyncClient, gateway: OneAdapterGateway
) -> None:
    answer = await client.post("/v1/chat/completions", json=chat(), headers={"x-request-id": "mine-1"})
    assert answer.status_code == 200
    assert answer.json()["model"] == "bot@7"
    assert answer.headers["x-shoal-version"] == "bot@7"
    assert answer.headers["x-shoal-role"] == "champion"
    assert answer.headers["x-request-id"] == "mine-1"
    assert answer.json()["id"] == "chatcmpl-mine-1"
    assert gateway.leases.all() == {}


async def test_an_id_that_is_not_sane_is_replaced(client: httpx.AsyncClient) -> None:
    answer = await client.post(
        "/v1/completions", json={"model": "base", "prompt": "hi"}, headers={"x-request-id": "{}"}
    )
    assert answer.headers["x-request-id"].startswith("req-")
    assert answer.json()["model"] == answer.headers["x-shoal-version"] == "base"


async def test_a_stream_names_its_version_in_every_chunk(client: httpx.AsyncClient, gateway: OneAdapterGateway) -> None:
    answer = await client.post("/v1/chat/completions", json=chat(stream=True))
    events = answer.text.split("\n\n")[:-1]
    assert events[-1] == "data: [DONE]"
    assert {json.loads(event[6:])["model"] for event in events[:-1]} == {"bot@7"}
    assert answer.headers["x-shoal-version"] == "bot@7"
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert gateway.leases.all() == {}


@pytest.mark.parametrize("stream", [False, True])
async def test_the_gateway_is_told_what_was_said(
    client: httpx.AsyncClient, gateway: OneAdapterGateway, stream: bool
) -> None:
    body = chat(stream=stream, temperature=0.5, user="ann")
    await client.post("/v1/chat/completions", json=body, headers={"x-request-id": "r1"})
    await asyncio.sleep(0)
    (told,) = gateway.told
    assert (told.request_id, told.model, told.version, told.session) == ("r1", "bot", "bot@7", "ann")
    assert told.prompt == MESSAGES
    assert [(choice.text, choice.finish_reason) for choice in told.choices] == [("bot@7: how are you today ", "stop")]
    assert told.sampling == {"temperature": 0.5}
    assert (told.streamed, told.aborted, told.error) == (stream, False, None)
    assert told.seconds > 0


@pytest.mark.parametrize("stream", [False, True])
async def test_the_wait_for_the_version_is_part_of_every_time(
    client: httpx.AsyncClient, gateway: OneAdapterGateway, stream: bool
) -> None:
    """From request to end, and to the first token; the span says how much of it was the wait."""
    told_spans: list[Span] = []
    gateway.loading, gateway.spans = 0.2, Spans(Keeps(told_spans))  # type: ignore[arg-type]  # as much as a span asks
    gateway.engine.seconds_per_token = 0.02
    before = time.time()
    assert (await client.post("/v1/chat/completions", json=chat(stream=stream))).status_code == 200
    await asyncio.sleep(0)
    (told,) = gateway.told
    assert before <= told.started < before + 0.2
    assert 0.2 <= told.seconds_to_admission < told.seconds
    if stream:
        assert told.seconds_to_first is not None
        assert told.seconds_to_admission < told.seconds_to_first < told.seconds
    spans = {span.name: span for span in told_spans}
    admit, answer, whole = spans["admit"], spans["answer bot@7"], spans["POST /v1/chat/completions"]
    assert admit.ended == answer.began
    assert admit.ended - admit.began >= 0.2e9
    assert answer.ended == whole.ended
    assert 0 < answer.ended - answer.began < whole.ended - whole.began - 0.19e9


async def test_a_session_is_the_header_or_else_the_user(client: httpx.AsyncClient, gateway: OneAdapterGateway) -> None:
    for headers, body in (({"x-shoal-session": "s"}, chat(user="u")), ({}, chat(user="u")), ({}, chat())):
        await client.post("/v1/chat/completions", json=body, headers=headers)
    assert gateway.sessions == ["s", "u", None]


@pytest.mark.parametrize(
    ("content", "status", "code", "param"),
    [
        (b"{", 400, "invalid_json", None),
        (b"[]", 400, "invalid_json", None),
        (b"[" * 100_000, 400, "invalid_json", None),
        (b'{"model": "bot", "temperature": NaN}', 400, "invalid_json", None),
        (b'{"model": "\\ud800", "messages": []}', 400, "invalid_json", None),
        (b'{"model": "bot", "messages": [{"role": "user", "content": "\\ud800"}]}', 400, "invalid_json", None),
        (b'{"messages": []}', 400, None, "model"),
        (b'{"model": "nobody", "messages": []}', 404, "model_not_found", "model"),
        (b'{"model": "bot", "messages": "hi"}', 400, None, "messages"),
        (b'{"model": "bot", "messages": [], "max_tokens": "many"}', 400, None, "max_tokens"),
    ],
)
async def test_every_error_has_the_body_that_openai_clients_read(
    client: httpx.AsyncClient,
    gateway: OneAdapterGateway,
    content: bytes,
    status: int,
    code: str | None,
    param: str | None,
) -> None:
    answer = await client.post("/v1/chat/completions", content=content)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["param"], error["type"]) == (code, param, "invalid_request_error")
    assert "x-request-id" in answer.headers
    assert gateway.leases.all() == {}


async def test_engine_trouble_is_a_503_that_may_be_tried_again(
    client: httpx.AsyncClient, gateway: OneAdapterGateway
) -> None:
    await gateway.engine.stop()
    answer = await client.post("/v1/chat/completions", json=chat())
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_unavailable")
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["x-shoal-version"] == "bot@7"
    await asyncio.sleep(0)
    assert gateway.told[0].aborted
    assert gateway.leases.all() == {}


async def test_a_version_that_cannot_be_made_ready_has_failed_a_request(
    client: httpx.AsyncClient, gateway: OneAdapterGateway
) -> None:
    """The version is named in the answer, and the gateway is told of an error of it; a model that is not there is nobody's."""
    answer = await client.post("/v1/chat/completions", json=chat(model="broken"))
    assert (answer.status_code, answer.headers["x-shoal-version"]) == (503, "bot@8")
    assert answer.json()["error"]["code"] == "artifact_missing"
    assert (await client.post("/v1/chat/completions", json=chat(model="nobody"))).status_code == 404
    await asyncio.sleep(0)
    (told,) = gateway.told
    assert (told.model, told.version, told.aborted, told.error) == ("broken", "bot@8", True, "It cannot be read.")


async def test_what_nobody_foresaw_is_a_500_without_its_insides(
    client: httpx.AsyncClient, gateway: OneAdapterGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any) -> None:
        raise RuntimeError("secret path")

    monkeypatch.setattr(gateway.engine, "chat", broken)
    answer = await client.post("/v1/chat/completions", json=chat())
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
    assert "secret" not in answer.text
    assert gateway.leases.all() == {}


async def test_a_stream_that_breaks_off_ends_with_an_error_event(
    client: httpx.AsyncClient, gateway: OneAdapterGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def chat_then_die(*_: Any) -> AsyncIterator[str]:
        async def events() -> AsyncIterator[str]:
            yield 'data: {"model": "bot@7", "choices": [{"index": 0, "delta": {"content": "a"}}]}\n\n'
            raise EngineUnavailable

        return events()

    monkeypatch.setattr(gateway.engine, "chat", chat_then_die)
    answer = await client.post("/v1/chat/completions", json=chat(stream=True))
    last = json.loads(answer.text.split("\n\n")[-3][6:])
    assert last["error"]["code"] == "engine_unavailable"
    await asyncio.sleep(0)
    assert gateway.told[0].aborted
    assert gateway.told[0].choices[0].text == "a"
    assert gateway.leases.all() == {}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_stops_the_engine_and_frees_its_version(
    gateway: OneAdapterGateway, stream: bool
) -> None:
    app = FastAPI()
    app.include_router(openai_router(gateway))
    gateway.engine.seconds_per_token = 0.02
    leave = asyncio.Event()
    body = json.dumps(chat(stream=stream)).encode()
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await leave.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None: ...

    scope = {
        "type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": [], "query_string": b"",
        "asgi": {"spec_version": "2.3"}, "http_version": "1.1", "scheme": "http", "server": ("shoal", 80),
    }  # fmt: skip
    serving = asyncio.create_task(app(scope, receive, send))
    await asyncio.sleep(0.03)
    assert (gateway.engine.running, gateway.leases.held("bot@7")) == (1, 1)
    leave.set()
    await serving
    await asyncio.sleep(0)
    assert (gateway.engine.running, gateway.leases.held("bot@7")) == (0, 0)
    (told,) = gateway.told
    assert (told.aborted, told.error) == (True, None)
    assert told.seconds >= 0.03
    assert (told.seconds_to_first is not None) == stream


async def test_models_are_listed_and_found_by_name(client: httpx.AsyncClient) -> None:
    listed = (await client.get("/v1/models")).json()
    assert listed["object"] == "list"
    assert (await client.get("/v1/models/bot")).json() == listed["data"][0]
    assert (await client.get("/v1/models/nobody")).json()["error"]["code"] == "model_not_found"
