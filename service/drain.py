"""Drain: an orderly stop lets answers finish, and says so while it lasts.

BentoML's parent keeps the listening socket open while its worker ends, so a worker that merely stopped accepting would let
new connections hang. Here SIGTERM reaches this file first: ``/readyz`` turns 503, new requests are answered 503 with
``Retry-After``, running ones go on; when they have ended (or the time is over) uvicorn gets its signal.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from service.openai_errors import error_body

log = logging.getLogger("shoal.service")

SIGNALS = (signal.SIGTERM, signal.SIGINT)
POLL_SECONDS = 0.05
RETRY_AFTER = "1"
REFUSAL = "This replica is stopping. Send the request again: another replica answers, or this one once it is back."


class Drain:
    """Counts the requests that run, and holds the stop back until they have ended. For one event loop."""

    def __init__(self) -> None:
        self.running = 0
        self.stopping = False
        self._notice = 0.0
        self._handlers: dict[int, Any] = {}
        self._task: asyncio.Task[None] | None = None
        self._leave: Callable[[], Awaitable[None]] | None = None

    def install(self, leave: Callable[[], Awaitable[None]], notice: float) -> None:
        """Take the signals over from the server; call it in the main thread. ``leave`` is awaited first: the replica's
        goodbye. ``notice``: seconds that ``/readyz`` says 503 at least, so that a balancer sees it before the port closes.
        """
        self._leave, self._notice = leave, notice
        loop = asyncio.get_running_loop()

        def heard(number: int, frame: FrameType | None) -> None:
            self.stopping = True
            loop.call_soon_threadsafe(self._begin, number)

        for number in SIGNALS:
            self._handlers[number] = signal.signal(number, heard)

    def _begin(self, number: int) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._drain(number), name="drain")
        else:
            self._hand_over(number, 1)  # asked twice: whoever asks does not want to wait

    async def _drain(self, number: int) -> None:
        started = time.monotonic()
        within = _grace_of(self._handlers[number])
        log.info("stopping: %d requests run, they may take %s", self.running, f"{within} s" if within else "their time")
        if self._leave is not None:
            try:
                await self._leave()
            except Exception:
                log.exception("the replica could not say goodbye; its heartbeat ends by itself")
        while self.running or time.monotonic() - started < self._notice:
            if within is not None and time.monotonic() - started >= within:
                log.warning("%d requests have not ended in %d s and are broken off", self.running, within)
                break
            await asyncio.sleep(POLL_SECONDS)
        self._hand_over(number, 1 if within is not None else None)

    def _hand_over(self, number: int, seconds: int | None) -> None:
        """Let the server stop as it always does; what runs now has had its time."""
        handler = self._handlers[number]
        if config := _config_of(handler):
            config.timeout_graceful_shutdown = seconds
        if callable(handler):
            handler(number, None)


class DrainGate:
    """The ASGI middleware in front of every route of Shoal's: counts, and refuses once the drain has begun. BentoML's own
    routes, ``/readyz`` among them, go on answering."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(("/v1/", "/api/")):
            await self._app(scope, receive, send)
            return
        if self._drain.stopping:
            await _refuse(scope, send)
            return
        self._drain.running += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._drain.running -= 1


async def _refuse(scope: Scope, send: Send) -> None:
    from starlette.responses import JSONResponse

    if scope["path"].startswith("/v1/"):
        body: dict[str, Any] = error_body(503, REFUSAL, "stopping")
    else:
        body = {"error": {"code": "stopping", "message": REFUSAL, "details": {}}}
    response = JSONResponse(body, 503, {"retry-after": RETRY_AFTER, "connection": "close"})
    await response(scope, _nothing, send)


async def _nothing() -> Any:
    return {"type": "http.disconnect"}


def _config_of(handler: Any) -> Any:
    """uvicorn's configuration, where the handler is its server's; None under another server."""
    return getattr(getattr(handler, "__self__", None), "config", None)


def _grace_of(handler: Any) -> int | None:
    """Seconds of ``--timeout-graceful-shutdown``; None: as long as the answers take."""
    return getattr(_config_of(handler), "timeout_graceful_shutdown", None)
