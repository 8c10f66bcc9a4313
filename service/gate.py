"""The gate: every request passes it before anything else, Shoal's own and BentoML's. Who asks, may they, how much.

A plain ASGI layer, for it stands on the way of every answer. The body is not read before the key is known to be good.
"""

from __future__ import annotations

import re
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.errors import NotFound, ShoalError, TooLarge, TooMany, Unauthorized
from service.auth import Auth, Caller
from service.limits import Rates
from service.openai_errors import error_body
from service.rules import OTHERWISE, rule_for

CALLER = "shoal.caller"
_UPLOAD = re.compile(r"/api/adapters/[^/]+/versions")
OPENAI_CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded"}


class Starting(ShoalError):
    status = 503
    code = "starting"


class NothingThere(NotFound):
    code = "not_found"


class Gatekeeper:
    """What the gate decides by, once the service has started; until then it lets health checks through and nobody else."""

    def __init__(self) -> None:
        self.auth: Auth | None = None
        self.rate: float | None = None
        self.max_body = 32 << 20
        self.max_upload = 512 << 20
        self.rates = Rates()

    def admit(self, scope: Scope) -> tuple[Caller | None, int]:
        """Who asks, and how many bytes they may send. ``Unauthorized``, ``Forbidden``, ``NothingThere``,
        ``TooMany``, ``TooLarge``."""
        method, path = scope["method"], scope["path"]
        rule, adapter = rule_for(method, path)
        if rule.need == "open":
            return None, self.max_body
        if self.auth is None:
            raise Starting("The service is starting.")
        headers = Headers(scope=scope)
        caller = self.auth.caller(headers, scope["client"][0] if scope.get("client") else None)
        if (
            rule is OTHERWISE and not caller.may_everything
        ):  # not 403: nobody should get an admin key for a misspelt path
            raise NothingThere(f"There is nothing at {path[:200]}. GET /openapi.json lists the routes.")
        if rule.need == "any":
            caller.need_every_adapter()  # figures are labelled with every adapter's name
        else:
            caller.need(rule.need)
        if adapter is not None:
            caller.need_adapter(adapter)
        elif rule.need == "admin":
            caller.need_every_adapter()  # else it could make itself a key without a limit
        if rate := caller.rate or self.rate:
            self.rates.take(caller.key, rate)
        most = self.max_upload if _UPLOAD.fullmatch(path) else self.max_body
        most = most if caller.max_body is None else min(most, caller.max_body)
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > most:
            raise _too_large(most)
        return caller, most


class Gate:
    """ASGI middleware. Whoever is let in stands in ``scope["shoal.caller"]``; who is not gets the error that belongs to
    the path: OpenAI's under ``/v1``, Shoal's elsewhere."""

    def __init__(self, app: ASGIApp, keeper: Gatekeeper) -> None:
        self._app = app
        self._keeper = keeper

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # Shoal speaks HTTP only: a websocket is closed by saying nothing
        try:
            caller, most = self._keeper.admit(scope)
        except ShoalError as error:
            await refusal(scope, error)(scope, receive, send)
            return
        scope[CALLER] = caller
        if any(name == b"transfer-encoding" for name, _ in scope["headers"]):  # else the server holds it to its length
            counted = _Counted(scope, receive, send, most)
            await self._app(scope, counted.receive, counted.send)
        else:
            await self._app(scope, receive, send)


class _Counted:
    """A request whose body is counted as it comes: one without a length may not be endless."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, most: int) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._left = self._most = most
        self._refused = self._begun = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            if self._left < 0:
                if not self._begun and not self._refused:
                    self._refused = True
                    await refusal(self._scope, _too_large(self._most))(self._scope, self._receive, self._send)
                return {"type": "http.disconnect"}
        return message

    async def send(self, message: Message) -> None:
        self._begun = True
        if not self._refused:
            await self._send(message)


def refusal(scope: Scope, error: ShoalError) -> JSONResponse:
    """An error as the answer of the path that was asked."""
    headers: dict[str, str] = {}
    if isinstance(error, Unauthorized):
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, TooMany):
        headers["retry-after"] = str(error.retry_after)
    if error.status == 503:
        headers["retry-after"] = "2"
    if isinstance(error, TooLarge):
        headers["connection"] = "close"  # the rest of the body is still on its way
    body: dict[str, Any] = error.body()
    if scope["path"].startswith("/v1/"):
        body = error_body(error.status, error.message, OPENAI_CODES.get(error.status, error.code))
    return JSONResponse(body, error.status, headers)


def caller_of(scope: Scope) -> Caller:
    """Who was let in. A request that came by no gate is nobody's: ``Unauthorized``."""
    caller = scope.get(CALLER)
    if not isinstance(caller, Caller):
        raise Unauthorized("A valid key is needed: send `Authorization: Bearer KEY`.")
    return caller


def _too_large(most: int) -> TooLarge:
    return TooLarge(
        f"The body is larger than {most / (1 << 20):.4g} MiB (SHOAL_MAX_BODY_MB, for uploads SHOAL_MAX_UPLOAD_MB, or the key's "
        "own limit).",
        limit=most,
    )
