"""A run's trace: run -> queued, each generation, confirm, promote -> the slices that workers score.

Whoever moves a run on tells of the phase that ended with it; whoever ends the run tells of the whole. When a phase began is in
the run's stream of states, by Redis's clock.
"""

from __future__ import annotations

import logging

from registry.errors import ShoalError
from registry.records import Run
from registry.runs import Runs
from registry.trace_ids import span_id, trace_id
from registry.tracing import Place, Span, Tracer

log = logging.getLogger("shoal.traces")
LOOKED_BACK = 50  # states of one phase that are walked back over


class RunSpans:
    """To be told of every move (``Runs.on_move``). It never raises: a trace is not worth a run."""

    def __init__(self, tracer: Tracer, runs: Runs) -> None:
        self._tracer = tracer
        self._runs = runs

    def moved(self, run: Run) -> None:
        """The phase that ended with this move, and where the run ended, the run."""
        try:
            self._tell(run)
        except ShoalError as error:
            log.info("a move of run %s is in no trace: %s", run.id, error)
        except Exception:
            log.exception("a move of run %s is in no trace", run.id)

    def _tell(self, run: Run) -> None:
        states = self._runs.latest_states(run.id, LOOKED_BACK)
        after = next((at for at, state in states if state.revision == run.revision), None)
        before = [(at, state) for at, state in states if state.revision < run.revision]
        if after is None or not before:
            return
        phase = phase_of(before[0][1])
        if phase != phase_of(run):
            began = before[0][0]
            for at, state in before:
                if phase_of(state) != phase:
                    break
                began = at
            self._tracer.tell(self._phase(before[0][1], phase, began, after))
        if not run.going:
            self._tracer.tell(self._whole(run, after))

    def _phase(self, state: Run, phase: str, began: int, ended: int) -> Span:
        return Span(
            phase,
            step_place(self._tracer, state.id, phase),
            began,
            ended,
            parent=run_place(self._tracer, state.id),
            attributes={
                "shoal.run": state.id,
                "shoal.adapter": state.spec.adapter,
                "shoal.generation": state.generation,
            },
        )

    def _whole(self, run: Run, ended: int) -> Span:
        version = None if run.version is None else f"{run.spec.adapter}@{run.version}"
        return Span(
            f"adapt {run.spec.adapter}",
            run_place(self._tracer, run.id),
            int(run.created_at.timestamp() * 1e9),
            ended,
            attributes={
                "shoal.run": run.id,
                "shoal.adapter": run.spec.adapter,
                "shoal.version": version,
                "shoal.run.status": run.status,
                "shoal.run.promoted": run.promoted,
                "shoal.run.generations": run.generation,
                "shoal.run.item_generations": run.item_generations,
                "shoal.run.optimizer": run.spec.optimizer,
            },
            error="failed" if run.status == "failed" else None,
        )


def phase_of(run: Run) -> str:
    """What a run is at, by the name of its step where it has one."""
    if run.status == "searching":
        return f"search-{run.generation}"
    return {"growing": "grow", "confirming": "confirm", "promoting": "promote"}.get(run.status, run.status)


def run_place(tracer: Tracer, run_id: str) -> Place:
    return Place(trace_id(run_id), span_id(run_id), tracer.samples(trace_id(run_id)))


def step_place(tracer: Tracer, run_id: str, step: str) -> Place:
    return Place(trace_id(run_id), span_id(run_id, step), tracer.samples(trace_id(run_id)))
