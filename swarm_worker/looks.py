"""How often challengers of one champion were looked at: what the gate's allowance is shared between.

The count is read from the records of runs, so it survives whatever they survive, and is the same however often a run's decision
is made again. It belongs to a champion, not to a stretch of time: a champion that comes back by a rollback comes back with the
looks that it had.
"""

from __future__ import annotations

from registry.records import Run
from registry.registry import Registry
from swarm_worker.gate import MIN_ITEMS

_PAGE = 200


def looks_before(registry: Registry, run: Run) -> int:
    """The gate's decisions on challengers of ``run``'s champion, in runs of its adapter that began before it."""
    if run.champion is None:
        return 0
    # No run can have had it as a champion before it was registered.
    since = registry.version(run.spec.adapter, run.champion.version).created_at
    count, before = 0, run.id
    while page := registry.runs.list(run.spec.adapter, limit=_PAGE, before=before):
        for earlier in page:
            if earlier.created_at < since:
                return count
            count += _looked(earlier, run.champion.version)
        before = page[-1].id
    return count


def _looked(run: Run, champion: int) -> bool:
    if run.decision is None or run.champion is None or run.champion.version != champion:
        return False
    # A run of before looks were counted tested, if it had enough items.
    return bool(run.decision.get("tested", run.decision.get("n", 0) >= MIN_ITEMS))
