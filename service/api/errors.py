"""One error body under ``/api``, whatever went wrong."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Match

from registry.errors import ShoalError
from service.openai_errors import error_body

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
log = logging.getLogger("shoal.api")
NOT_FIELDS = {"body", "query", "path", "form", "one", "many"}  # where pydantic looked, not what the caller named
CODES = {404: "not_found", 405: "method_not_allowed", 413: "too_large", 429: "too_many_requests"}


def add_error_handlers(app: FastAPI) -> None:
    """Map the error tree, validation and everything unforeseen to the body that belongs to the path."""

    @app.exception_handler(ShoalError)
    async def known(request: Request, error: ShoalError) -> JSONResponse:
        return answer_of(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        problems = problems_of(error.errors())
        return _answer(request, 422, "bad_input", told_of(problems), {"problems": problems})

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        return _answer(request, error.status_code, CODES.get(error.status_code, "http_error"), str(error.detail), {})

    @app.exception_handler(Exception)
    async def other(request: Request, error: Exception) -> JSONResponse:
        return unforeseen(request, error)


def add_unknown_routes(app: FastAPI) -> None:
    """Answer what no route takes; call it last. BentoML asks a mounted app only for paths that one of its routes matches, so
    that without these an unknown path would get a bare line of text."""

    @app.api_route("/api/{rest:path}", methods=METHODS, include_in_schema=False)
    @app.api_route("/v1/{rest:path}", methods=METHODS, include_in_schema=False)
    async def unknown(request: Request, rest: str) -> JSONResponse:
        others = {
            m for r in app.routes if r.matches(request.scope)[0] is Match.PARTIAL for m in getattr(r, "methods", ())
        }
        if others:
            allowed = ", ".join(sorted(others - {"HEAD"}))
            message = f"{request.method} is not possible at {request.url.path}; {allowed} is."
            return _answer(request, 405, CODES[405], message, {"allowed": sorted(others)})
        message = f"There is nothing at {request.url.path}. GET /openapi.json lists the routes."
        return _answer(request, 404, CODES[404], message, {})


def answer_of(error: ShoalError) -> JSONResponse:
    """An error of ours under ``/api``."""
    return JSONResponse(error.body(), error.status, {"retry-after": "2"} if error.status in (429, 503) else None)


def unforeseen(request: Request, error: Exception) -> JSONResponse:
    """A defect of ours: the caller learns that there is one, the log which."""
    log.exception("%s %s failed", request.method, request.url.path, exc_info=error)
    return _answer(request, 500, "internal", "Internal error; it is in the service's log.", {})


def _answer(request: Request, status: int, code: str, message: str, details: dict[str, Any]) -> JSONResponse:
    if request.url.path.startswith("/v1"):
        return JSONResponse(error_body(status, message, code), status)
    return JSONResponse({"error": {"code": code, "message": message, "details": details}}, status)


def problems_of(found: Iterable[Any]) -> list[dict[str, str]]:
    """pydantic's findings as ``{"field", "problem"}``."""
    return [_problem(detail) for detail in found]


def told_of(problems: list[dict[str, str]]) -> str:
    """The findings in one sentence."""
    return "; ".join(f"'{one['field']}': {one['problem']}" if one["field"] else one["problem"] for one in problems)


def _problem(detail: dict[str, Any]) -> dict[str, str]:
    """One finding of pydantic's, in words: which field, what is wrong."""
    where = [str(part) for part in detail["loc"] if part not in NOT_FIELDS]
    kind = detail["type"]
    problem = {
        "extra_forbidden": "there is no such field",
        "missing": "is missing",
        "json_invalid": "the body is not valid JSON",
    }.get(kind, re.sub(r"^Value error, ", "", detail["msg"]))
    return {"field": "" if kind == "json_invalid" else ".".join(where), "problem": problem}
