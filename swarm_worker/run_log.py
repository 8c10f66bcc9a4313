"""One line for every move of a run, with the ids that it is about."""

from __future__ import annotations

import logging

from registry.logs import bound
from registry.records import Run

log = logging.getLogger("shoal.runs")


def tell_move(run: Run) -> None:
    """Where a run is now. Its end, with the reason, is the driver's to tell."""
    version = {} if run.version is None else {"version": f"{run.spec.adapter}@{run.version}"}
    with bound(run=run.id, adapter=run.spec.adapter, **version):
        log.info("%s, generation %d of %d", run.status, run.generation, run.max_generations)
