"""Traces: where spans go, if anybody collects them. OpenTelemetry's own environment variables say whether and how.

A span is told when what it is about is over, with both its times: nothing is open meanwhile, nothing is held on a request's
path, and a process that dies loses spans, never work.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

log = logging.getLogger("shoal.traces")

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
CLOSE_MILLISECONDS = 3000  # what a stopping process gives a collector that hangs
Kind = Literal["internal", "server", "consumer"]
Value = str | bool | int | float | tuple[str, ...]
_IDS: ContextVar[tuple[int, int] | None] = ContextVar("shoal_span_ids", default=None)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a span hangs: its trace and its own id. ``sampled``: whether whoever began the trace wants it collected."""

    trace: int
    span: int
    sampled: bool = True

    def child(self) -> Place:
        """A place for a span below this one."""
        return Place(self.trace, random.getrandbits(64) or 1, self.sampled)

    @classmethod
    def new(cls) -> Place:
        """The first span of a trace of its own."""
        return cls(random.getrandbits(128) or 1, random.getrandbits(64) or 1)


@dataclass(frozen=True, slots=True)
class Span:
    """What was done, from when to when (nanoseconds since 1970). ``error``: its kind only, for its words may hold prompts."""

    name: str
    place: Place
    began: int
    ended: int
    parent: Place | None = None
    kind: Kind = "internal"
    attributes: Mapping[str, Value | None] = field(default_factory=dict)
    error: str | None = None


class Tracer:
    """Takes spans and has a thread of OpenTelemetry's send them on, in batches; ``tell`` never waits."""

    def __init__(self, provider: Any) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("shoal")

    @classmethod
    def from_environment(cls, service: str, instance: str) -> Tracer | None:
        """A tracer if an OTLP endpoint is named (``OTEL_EXPORTER_OTLP_ENDPOINT``), else None: tracing is off.

        ``service``, ``instance``: what the spans say of this process, where ``OTEL_SERVICE_NAME`` says nothing.
        """
        if not wanted():
            return None
        try:
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor

            exporter = _exporter()
        except ImportError as missing:
            log.warning("an OTLP endpoint is named, but there are no traces: %s. Install shoal[otel].", missing)
            return None
        named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": service}
        resource = Resource.create({**named, "service.instance.id": instance})
        provider = TracerProvider(resource=resource, id_generator=_given_ids())
        provider.add_span_processor(BatchSpanProcessor(exporter))
        return cls(provider)

    def tell(self, span: Span) -> None:
        """Send the span on, unless the sampler (``OTEL_TRACES_SAMPLER``) or whoever began the trace does not want it."""
        from opentelemetry import trace

        above = None
        if span.parent is not None:
            flags = trace.TraceFlags(trace.TraceFlags.SAMPLED if span.parent.sampled else trace.TraceFlags.DEFAULT)
            parent = trace.SpanContext(span.parent.trace, span.parent.span, is_remote=True, trace_flags=flags)
            above = trace.set_span_in_context(trace.NonRecordingSpan(parent))
        token = _IDS.set((span.place.trace, span.place.span))
        try:
            told = self._tracer.start_span(
                span.name,
                context=above or trace.set_span_in_context(trace.INVALID_SPAN),
                kind=trace.SpanKind[span.kind.upper()],
                start_time=span.began,
                attributes={name: value for name, value in span.attributes.items() if value is not None},
            )
        finally:
            _IDS.reset(token)
        if span.error is not None:
            told.set_attribute("error.type", span.error)
            told.set_status(trace.StatusCode.ERROR)
        told.end(span.ended)

    def samples(self, trace_id: int) -> bool:
        """Whether a trace that begins here with this id would be collected: one answer for all of its processes."""
        decision = self._provider.sampler.should_sample(None, trace_id, "").decision
        return bool(decision.is_sampled())

    def close(self) -> None:
        """Send what is left; at most a few seconds."""
        self._provider.force_flush(CLOSE_MILLISECONDS)
        self._provider.shutdown()


def wanted() -> bool:
    """Whether the environment asks for traces."""
    off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or os.environ.get("OTEL_TRACES_EXPORTER") == "none"
    return not off and any(os.environ.get(name) for name in ENDPOINTS)


def parent_of(traceparent: str) -> Place | None:
    """Where a caller's ``traceparent`` says that its span is; None for one that is missing or malformed."""
    from opentelemetry.trace import get_current_span
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = TraceContextTextMapPropagator().extract({"traceparent": traceparent})
    found = get_current_span(context).get_span_context()
    return Place(found.trace_id, found.span_id, found.trace_flags.sampled) if found.is_valid else None


def _exporter() -> Any:
    """By ``OTEL_EXPORTER_OTLP_PROTOCOL``; endpoint, headers and time-outs are the exporter's own to read."""
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

        return GrpcExporter()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()


def _given_ids() -> Any:
    """The ids that a span's place names."""
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    class GivenIds(RandomIdGenerator):
        def generate_trace_id(self) -> int:
            return given[0] if (given := _IDS.get()) else super().generate_trace_id()

        def generate_span_id(self) -> int:
            return given[1] if (given := _IDS.get()) else super().generate_span_id()

    return GivenIds()
