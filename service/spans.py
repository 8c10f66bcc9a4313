"""A request's trace: the server's span, below it how long its version was waited for and how long that took to answer.

Made from what is told of an exchange once its answer has been sent; on the request's path there is a look at a header and at
the clock. Without a tracer nothing here is called (docs/log.md has what a span a chunk had cost). Attributes follow
OpenTelemetry's conventions for HTTP servers and generative AI. Never what was asked or answered.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from registry import logs
from registry.tracing import Place, Span, Tracer, Value, parent_of
from service.exchanges import Exchange

OPERATIONS = {"/v1/chat/completions": "chat", "/v1/completions": "text_completion"}
PROVIDER = "shoal"
CLIENT_CLOSED = 499
SAMPLED_BY = ("temperature", "top_p", "top_k", "max_tokens", "seed", "presence_penalty", "frequency_penalty")


@dataclass(frozen=True, slots=True)
class Spans:
    """Begins the spans of requests."""

    tracer: Tracer

    def begin(self, request: Request, request_id: str) -> RequestSpan:
        """The request's span, below its caller's where a ``traceparent`` came with it. Lines of the log name its trace."""
        given = request.headers.get("traceparent")
        parent = parent_of(given) if given else None
        place = parent.child() if parent else Place.new()
        logs.bind(trace_id=f"{place.trace:032x}")
        return RequestSpan(self.tracer, request, request_id, place, parent)


class RequestSpan:
    """One request, from its first byte to the last of its answer. Told once, by whichever comes last of what it needs."""

    def __init__(self, tracer: Tracer, request: Request, request_id: str, place: Place, parent: Place | None) -> None:
        self._tracer = tracer
        self._method, self._path = request.method, request.url.path
        self._request_id = request_id
        self._place, self._parent = place, parent
        self._began = time.time_ns()
        self._status: int | None = None

    def responded(self, response: Response) -> None:
        """There is a response; what there is to tell of one that is no error comes with its exchange."""
        self._status = response.status_code
        if self._status >= 400:
            version = response.headers.get("x-shoal-version")
            self._tell(time.time_ns(), self._status, _of(version) if version else {})

    def broke(self, status: int) -> None:
        """There is an error instead of a response."""
        self._status = status
        self._tell(time.time_ns(), status, {})

    def answered(self, exchange: Exchange) -> None:
        """The answer was sent, or broke off."""
        if self._status is not None and self._status >= 400:
            return  # told already
        came = round(exchange.started * 1e9)
        asked = came + round(exchange.seconds_to_admission * 1e9)
        ended = came + round(exchange.seconds * 1e9)
        attributes = _of(exchange.version) | {"gen_ai.request.model": exchange.model}
        self._child("admit", self._began, asked, attributes)
        error = "engine_error" if exchange.error is not None else "aborted" if exchange.aborted else None
        self._child(f"answer {exchange.version}", asked, ended, attributes, error)
        status = self._status or CLIENT_CLOSED
        self._tell(ended, status, attributes | _answer(exchange), error)

    def _child(
        self, name: str, began: int, ended: int, attributes: dict[str, Value | None], error: str | None = None
    ) -> None:
        place = self._place.child()
        self._tracer.tell(
            Span(name, place, began, max(began, ended), parent=self._place, attributes=attributes, error=error)
        )

    def _tell(self, ended: int, status: int, more: dict[str, Value | None], error: str | None = None) -> None:
        attributes: dict[str, Value | None] = {
            "http.request.method": self._method,
            "http.route": self._path,
            "url.path": self._path,
            "http.response.status_code": status,
            "gen_ai.operation.name": OPERATIONS.get(self._path),
            "gen_ai.provider.name": PROVIDER,
            "shoal.request_id": self._request_id,
            **more,
        }
        if error is None and status >= 500:
            error = str(status)
        self._tracer.tell(
            Span(
                f"{self._method} {self._path}",
                self._place,
                self._began,
                ended,
                parent=self._parent,
                kind="server",
                attributes=attributes,
                error=error,
            )
        )


def _of(version: str) -> dict[str, Value | None]:
    """Who answered: ``support-bot@7``, or the base, which is no adapter's."""
    adapter = version.rpartition("@")[0]
    return {"shoal.version": version, "shoal.adapter": adapter or None, "gen_ai.response.model": version}


def _answer(exchange: Exchange) -> dict[str, Value | None]:
    sampling = {f"gen_ai.request.{name}": exchange.sampling.get(name) for name in SAMPLED_BY}
    reasons = tuple(choice.finish_reason for choice in exchange.choices if choice.finish_reason)
    return {
        **{name: value for name, value in sampling.items() if isinstance(value, int | float)},
        "gen_ai.usage.input_tokens": exchange.prompt_tokens,
        "gen_ai.usage.output_tokens": exchange.answer_tokens,
        "gen_ai.response.finish_reasons": reasons or None,
        "gen_ai.response.time_to_first_chunk": exchange.seconds_to_first,
        "gen_ai.request.stream": exchange.streamed or None,
    }
