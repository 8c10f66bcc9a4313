"""The short way to an answer: the two busy routes are answered before any router is asked.

Every chunk of a stream passes every layer around its route, and every request is matched against all routes first
(docs/log.md has what that cost). These two routes use nothing of either. They stay declared in
``service/openai_api.py``, so that ``/openapi.json`` and ``/docs`` show them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.openai_api import Gateway, answer_chat, answer_completion

_Endpoint = Callable[[Gateway, Request], Awaitable[Response]]
ENDPOINTS: dict[str, _Endpoint] = {
    "/v1/chat/completions": answer_chat,
    "/v1/completions": answer_completion,
}


class OpenAIPath:
    """ASGI middleware; everything but a POST to one of ``ENDPOINTS`` goes on to ``app``."""

    def __init__(self, app: ASGIApp, gateway: Gateway) -> None:
        self._app = app
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and (endpoint := ENDPOINTS.get(scope["path"])):
            response = await endpoint(self._gateway, Request(scope, receive))
            await response(scope, receive, send)
        else:
            await self._app(scope, receive, send)
