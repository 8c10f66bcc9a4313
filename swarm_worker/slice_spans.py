"""A slice's span, below the span of its step: the message carries which one, as a W3C ``traceparent``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from registry import logs
from registry.run_spans import run_place, step_place
from registry.trace_ids import traceparent
from registry.tracing import Span, Tracer, parent_of

HEADER = "traceparent"


def context_of(tracer: Tracer | None, message: dict[str, Any]) -> dict[str, str]:
    """The headers of a scoring message: the step that it belongs to, where traces are collected."""
    if tracer is None:
        return {}
    place = run_place(tracer, message["run"])
    return {HEADER: traceparent(message["run"], message["step"], sampled=place.sampled)}


@contextmanager
def scoring(
    tracer: Tracer | None, task: Any, run: str, step: str, index: int
) -> Iterator[Callable[[int | None], None]]:
    """Around the scoring of a slice. What it yields is to be told the answer of ``SliceScorer.score``."""
    if tracer is None:
        yield lambda missing: None
        return
    headers = getattr(task.request, "headers", None) or {}
    # A message of before traces were collected carries nothing: its step's span is known from the run all the same.
    parent = parent_of(str(headers.get(HEADER, ""))) or step_place(tracer, run, step)
    place, began = parent.child(), time.time_ns()
    told: dict[str, Any] = {"shoal.run": run, "shoal.step": step, "shoal.slice": index}
    error: str | None = None

    def tell(missing: int | None) -> None:
        told["shoal.slice.outcome"] = "nothing to do" if missing is None else "reported"

    try:
        with logs.bound(trace_id=f"{place.trace:032x}"):
            yield tell
    except BaseException as failed:
        error = type(failed).__name__
        raise
    finally:
        attributes = {**told, "messaging.system": "celery", "messaging.destination.name": "score"}
        tracer.tell(
            Span(
                "score slice",
                place,
                began,
                time.time_ns(),
                parent=parent,
                kind="consumer",
                attributes=attributes,
                error=error,
            )
        )
