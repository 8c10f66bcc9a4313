"""Dropout: what skipping evaluations saves, and what it costs (arXiv:2410.11163, figure 9: up to 80% faster, 6.0% worse).

Dropout-K leaves a whole generation unscored, dropout-N a single particle, each with its chance. Null: no difference from the
swarm that scores everything. And a control: the same swarm stopped at the budget that dropout spent, the plain way to save.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from swarm_worker.analyses import plots
from swarm_worker.analyses.finding import Finding, compared
from swarm_worker.analyses.subject import Climbed, Subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CHANCES = (0.0, 0.4, 0.8)


def dropout(subject: Subject) -> Finding:
    """The grid of both chances. Every swarm makes as many generations as fit in the subject's evaluations when all of them
    are scored: a budget alone would let dropout buy more generations with what it saves."""
    generations = max(1, subject.evaluations // subject.rules.particles - 1)
    fixed: dict[str, Any] = {"max_generations": generations, "patience": None}
    full = [subject.climb(seed, **fixed) for seed in subject.seeds]
    before = subject.tested([climbed.best for climbed in full])
    rows = []
    for k in CHANCES:
        for n in CHANCES:
            climbs = [subject.climb(seed, **fixed, dropout_k=k, dropout_n=n) for seed in subject.seeds]
            scores = subject.tested([climbed.best for climbed in climbs])
            stopped = [
                stopped_at(one, climbed.item_generations, subject) for one, climbed in zip(full, climbs, strict=True)
            ]
            control = float(subject.tested(stopped).mean())
            rows.append(compared(f"K {k:g}, N {n:g}", scores, before, **_saved(climbs, full), stopped=control))
    notes = [
        f"Null: no difference from the swarm that scores everything ({generations} generations after the start, no patience).",
        "saved: share of its item-generations. stopped: test score of that swarm's best at the moment it had spent as much.",
    ]
    return Finding("dropout", rows, {"generations": generations, "chances": list(CHANCES)}, notes)


def stopped_at(climbed: Climbed, item_generations: int, subject: Subject) -> tuple[float, ...]:
    """The best position of a search's first ``item_generations``."""
    seen = climbed.visits[: max(1, item_generations // len(subject.search.items))]
    return max(seen, key=lambda visit: -np.inf if visit.utility is None else visit.utility).position


def _saved(climbs: list[Climbed], full: list[Climbed]) -> dict[str, float]:
    spent = float(np.mean([climbed.item_generations for climbed in climbs]))
    whole = float(np.mean([climbed.item_generations for climbed in full]))
    return {"item_generations": spent, "saved": 1.0 - spent / whole}


def draw(finding: Finding, axes: Axes) -> None:
    rows = sorted(finding.rows, key=lambda row: row["saved"])
    axes.axhline(0.0, color=plots.GREY, linewidth=1, linestyle="--")
    for row in rows:
        axes.plot([row["saved"]] * 2, [row["low"], row["high"]], color=plots.BLUE, alpha=0.5)
        axes.plot(row["saved"], row["difference"], "o", color=plots.BLUE)
        axes.annotate(row["who"], (row["saved"], row["difference"]), (4, 4), textcoords="offset points", fontsize=7)
    full = next(row for row in finding.rows if row["saved"] == 0.0)["test"]
    axes.plot(
        [row["saved"] for row in rows],
        [row["stopped"] - full for row in rows],
        "x--",
        color=plots.RED,
        label="full swarm, stopped when it had spent as much",
    )
    axes.set_xlabel("share of item-generations saved")
    axes.set_ylabel("test score, difference from no dropout")
    axes.set_title("Dropout")
    axes.legend(frameon=False)
