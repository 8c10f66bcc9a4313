"""The short way in for feedback: answered before any router is asked, as the inference routes are (``openai_path.py``).

A post takes a few tenths of a millisecond of the process in which answers are streamed; routers and dependencies took as much
again (docs/log.md). The route stays declared in ``service/api/feedback.py``, for ``/openapi.json`` and ``/docs``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from registry.errors import ShoalError
from service.api.errors import answer_of, unforeseen
from service.api.feedback import answer_post
from service.api.parts import Parts
from service.gate import Starting, caller_of

PATH = "/api/feedback"
log = logging.getLogger("shoal.api")


class FeedbackPath:
    """ASGI middleware; everything but a POST of feedback goes on to ``app``."""

    def __init__(self, app: ASGIApp, parts: Callable[[], Parts | None]) -> None:
        self._app = app
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] != PATH:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            if (parts := self._parts()) is None:
                raise Starting("The service is starting.")
            answer = await answer_post(await request.body(), parts, caller_of(scope))
        except ShoalError as error:
            answer = answer_of(error)
        except Exception as error:
            answer = unforeseen(request, error)
        await answer(scope, receive, send)
