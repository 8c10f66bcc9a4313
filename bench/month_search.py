"""One run of the simulated months: snapshot, search, cut, confirmation and gate, as a run's own steps, on one engine.

The search is the default of a run, CMA-ES in the delta space on the ``preference`` utility, with a smaller budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from bench.month_searches import Searches
from registry.gate_policy import GatePolicy
from registry.records import Feedback, SnapshotItem
from registry.snapshot_filter import FEWEST, SnapshotFilter
from registry.snapshots import freeze
from swarm_worker import search
from swarm_worker.confirm import confirm, rated
from swarm_worker.gate import Decision, accepted, decide
from swarm_worker.materialise import materialise
from swarm_worker.scorer import Scorer, climb
from swarm_worker.scoring.engine import AdapterFolder, ScoringEngine
from swarm_worker.utilities import UTILITIES

SEARCH_ITEMS, CONFIRM_ITEMS = 200, 3000
MAX_TOKENS = 24
GATE = GatePolicy(level=0.9, tolerance=0.05, correction="none")
"""Keeps out what is shown to be worse. What is better the users say, in the trial that follows; what a gate refuses for want of
proof costs them more than it saves (docs/log.md)."""
SERVED_RANK = 16  # the starter service's ``max_lora_rank``


@dataclass(frozen=True)
class Finalist:
    """What a search found, cut to what is served, and what the gate said of it."""

    folder: Path
    coefficients: tuple[float, ...]
    decision: Decision


def find(
    engine: ScoringEngine,
    searches: Searches,
    experts: Sequence[Path],
    champion: Path,
    feedback: Sequence[Feedback],
    folder: Path,
    *,
    chosen: SnapshotFilter,
    start: tuple[float, ...] | None,
    confirms: bool,
    look: int,
    generations: int,
    seed: int,
    at: datetime,
) -> Finalist | None:
    """The finalist, or None where there is too little feedback. ``start``: the champion's own coefficients, if it has some;
    ``look``: the how manieth at a challenger of this champion.

    Without ``confirms`` the gate decides on the items that were searched on: the mistake that a split is there to prevent.
    """
    snapshot = freeze(
        "support-bot", feedback, chosen=chosen, limit_search=SEARCH_ITEMS, limit_confirm=CONFIRM_ITEMS, seed=seed, at=at
    )
    if len(snapshot.search) + len(snapshot.confirm) < FEWEST:
        return None
    engine.set_experts(list(experts))
    before = AdapterFolder(champion)
    # Experts that joined the pool since are no part of the champion.
    starts = [] if start is None else [start + (0.0,) * (len(experts) - len(start))]

    def climbed() -> tuple[float, ...]:
        optimizer = search.make(
            "cma_es", n_experts=len(experts), seed=seed, starts=tuple(starts), max_generations=generations
        )
        items = [rated(item) for item in snapshot.search]
        return climb(optimizer, Scorer(engine, UTILITIES["preference"], items, reference=before)).coefficients

    coefficients = searches.found(snapshot.digest, experts, champion, starts, generations, seed, climbed)
    materialise(experts, coefficients, folder, space="delta", max_rank=SERVED_RANK)
    unseen: Sequence[SnapshotItem] = snapshot.confirm if confirms else snapshot.search
    scores = confirm(engine, before, AdapterFolder(folder), unseen, max_tokens=MAX_TOKENS)
    decision = decide(scores["before"], scores["after"], seed=seed, gate=GATE, look=look, accepted=accepted(scores))
    return Finalist(folder, coefficients, decision)
