"""A server that answers what a test tells it to, over real HTTP, and remembers what it was asked."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

Answer = Callable[["Asked"], Response]


@dataclass
class Asked:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class FakeShoal:
    """``answers["GET /api/adapters"]``: a JSON value, a ``Response``, or a function of what was asked."""

    url: str = ""
    answers: dict[str, Any] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)

    def answer(self, asked: Asked) -> Response:
        self.asked.append(asked)
        found = self.answers.get(f"{asked.method} {asked.path}", self.answers.get("*"))
        if found is None:
            return refusal(404, "not_found", f"There is nothing at {asked.path}.")
        found = found(asked) if callable(found) and not isinstance(found, Response) else found
        return found if isinstance(found, Response) else Response(json.dumps(found), media_type="application/json")


def refusal(status: int, code: str, message: str, /, **details: Any) -> Response:
    body = {"error": {"code": code, "message": message, "details": details}}
    return Response(json.dumps(body), status_code=status, media_type="application/json")


def events(*lines: str) -> Response:
    """A stream that ends after these chunks, as a connection that breaks does."""
    return StreamingResponse(iter(lines), media_type="text/event-stream")


def run_event(**changes: Any) -> str:
    return f"event: run\ndata: {json.dumps(run(**changes))}\n\n"


def run(**changes: Any) -> dict[str, Any]:
    """A run as the service tells it."""
    return {
        "id": "r1",
        "spec": {"adapter": "support-bot"},
        "status": "searching",
        "revision": 1,
        "created_at": "2026-11-23T18:57:10.123456Z",
        "generation": 0,
        "max_generations": 10,
        "best_utility": None,
        "best_expert": None,
        "best_expert_utility": None,
        "formula": "",
        "decision": None,
        "version": None,
        "promoted": False,
        "outcome": "",
        **changes,
    }


def rollout(**changes: Any) -> dict[str, Any]:
    return {
        "adapter": "support-bot",
        "revision": 4,
        "champion": 2,
        "challenger": None,
        "challenger_share": 0.0,
        "trail": [1],
        "withdrawn": [],
        "moved_at": "2026-11-23T18:57:10.123456Z",
        "schema_number": 1,
        **changes,
    }


def adapter(**changes: Any) -> dict[str, Any]:
    at = "2026-11-23T18:57:10Z"
    return {"name": "support-bot", "created_at": at, "created_by": "ann", "versions": 2, "rollout": rollout(**changes)}


@contextmanager
def serving() -> Iterator[FakeShoal]:
    fake, app = FakeShoal(), FastAPI()

    @app.api_route("/{path:path}", methods=["GET", "POST", "PUT", "DELETE"])
    async def any_route(request: Request) -> Response:
        body = await request.body()
        return fake.answer(
            Asked(
                request.method,
                request.scope["raw_path"].decode(),
                dict(request.query_params),
                dict(request.headers),
                body,
            )
        )

    config = uvicorn.Config(app, port=0, log_level="error", lifespan="off", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 10
    while not server.started and time.monotonic() < until:
        time.sleep(0.01)
    fake.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield fake
    finally:
        server.should_exit = True
        thread.join(10)
