"""OpenAI's error body, for everything that goes wrong under /v1.

    {"error": {"message": str, "type": str, "param": str | null, "code": str | null}}

``type`` follows from the status, as OpenAI's does; clients look at the status and at ``code``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from service.engine import EngineError

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    500: "server_error",
    501: "server_error",
    503: "service_unavailable_error",
}
REFUSED = "invalid_request_error"  # every other 4xx


def error_body(status: int, message: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """The body for an error of this status."""
    kind = TYPES.get(status, REFUSED if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_response(error: EngineError, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An EngineError as an HTTP answer."""
    body = error_body(error.status, error.message, error.code, error.param)
    retry = {"retry-after": "1"} if error.status in (429, 503) else {}
    return JSONResponse(body, error.status, {**retry, **(headers or {})})
