"""Spans as they are told, on OpenTelemetry's own SDK with an exporter that keeps them."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, TraceIdRatioBased
from opentelemetry.trace import StatusCode

from registry import tracing
from registry.trace_ids import span_id, trace_id, traceparent
from registry.tracing import Place, Span, Tracer, parent_of, wanted


class Kept:
    """A tracer, and the spans that it let through."""

    def __init__(self, sampler: object = None) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(id_generator=tracing._given_ids(), sampler=sampler)  # type: ignore[arg-type]
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = Tracer(provider)

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*tracing.ENDPOINTS, "OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER", "OTEL_TRACES_SAMPLER"):
        monkeypatch.delenv(name, raising=False)


def test_a_span_has_the_ids_times_and_attributes_that_it_was_told() -> None:
    """What is None is left out; an error has its kind."""
    kept, root = Kept(), Place(trace_id("run-1"), span_id("run-1"))
    child = Place(root.trace, span_id("run-1", "search-0"))
    kept.tracer.tell(Span("search-0", child, 10, 20, parent=root, attributes={"a": 1, "b": None}, error="failed"))
    kept.tracer.tell(Span("adapt bot", root, 5, 30))
    first, second = kept.spans
    assert first.context is not None
    assert first.parent is not None
    assert (first.context.trace_id, first.context.span_id, first.parent.span_id) == (root.trace, child.span, root.span)
    assert (first.start_time, first.end_time) == (10, 20)
    assert dict(first.attributes or {}) == {"a": 1, "error.type": "failed"}
    assert first.status.status_code is StatusCode.ERROR
    assert second.parent is None
    assert second.status.status_code is StatusCode.UNSET


def test_one_answer_whether_a_run_is_collected() -> None:
    """By a ratio of its trace id, so every process that tells of it decides the same; a step follows its run."""
    kept = Kept(ParentBased(TraceIdRatioBased(0.5)))
    runs = [f"run-{number}" for number in range(200)]
    for run in runs:
        root = Place(trace_id(run), span_id(run), kept.tracer.samples(trace_id(run)))
        step = Place(root.trace, span_id(run, "confirm"), root.sampled)
        kept.tracer.tell(Span("confirm", step, 1, 2, parent=root))
        kept.tracer.tell(Span("adapt", root, 1, 2))
    told = [span.context.trace_id for span in kept.spans if span.context]
    assert 60 < len(set(told)) < 140
    assert all(told.count(trace) == 2 for trace in told)
    none = Kept(ParentBased(ALWAYS_OFF))
    assert not none.tracer.samples(1)


def test_the_ids_of_a_run_are_those_of_its_name() -> None:
    """The same in every process, different for every part; the header says them as W3C has it."""
    parts = [(), ("search-0",), ("search-1",), ("confirm",)]
    assert len({span_id("run-1", *part) for part in parts} | {span_id("run-2", *part) for part in parts}) == 8
    place = parent_of(traceparent("run-1", "confirm"))
    assert place == Place(trace_id("run-1"), span_id("run-1", "confirm"), True)
    assert parent_of(traceparent("run-1", "confirm", sampled=False)) == Place(
        trace_id("run-1"), span_id("run-1", "confirm"), False
    )


@pytest.mark.parametrize("wrong", ["", "00", "00-0-0-01", f"00-{0:032x}-{1:016x}-01", f"ff-{1:032x}-{1:016x}-01", "é"])
def test_a_malformed_traceparent_is_nobodys(wrong: str) -> None:
    assert parent_of(wrong) is None


@pytest.mark.parametrize(
    ("environment", "on"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_tracing_is_off_unless_an_endpoint_is_named(
    environment: dict[str, str], on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert wanted() is on
    if not on:
        assert Tracer.from_environment("shoal-service", "here") is None
