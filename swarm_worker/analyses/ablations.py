"""Ablations: one rule of the swarm left out at a time (arXiv:2410.11163: -23.5% without randomness, -22.0% without
crossover; those of repel, restart and start velocity are in its code's flags only).

Null: no difference from the full swarm on the same test items. All have the same budget in evaluations; the paper's variant
without crossover has half the particles, and so half the evaluations, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from swarm_worker.analyses import plots
from swarm_worker.analyses.finding import Finding, compared
from swarm_worker.analyses.subject import Climbed, Subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes

VARIANTS: dict[str, dict[str, Any]] = {
    "no repel": {"repel": 0.0},
    "no randomness": {"randomness": False},
    "no restart": {"restart_patience": None},
    "no crossover": {"crossover": False},
    "zero start velocity": {"start_velocity": "zero"},
    "best start velocity": {"start_velocity": "best"},
}
"""What each changes in the options of ``model_swarms``."""


def ablations(subject: Subject) -> Finding:
    """A variant that is what the subject's options already say is left out: there is nothing to compare."""
    full = [subject.climb(seed) for seed in subject.seeds]
    before = _tested(subject, full)
    rows = [compared("full", before, before, **_course(full))]
    has_it, idle = [], []
    for name, changes in VARIANTS.items():
        if all(getattr(subject.rules, option) == value for option, value in changes.items()):
            has_it.append(name)
            continue
        climbs = [subject.climb(seed, **changes) for seed in subject.seeds]
        rows.append(compared(name, _tested(subject, climbs), before, **_course(climbs)))
        if climbs == full:
            idle.append(name)
    notes = [
        f"Null: no difference from the full swarm on the same {before.shape[1]} test items (paired; {len(full)} seeds).",
        f"{len(rows) - 1} comparisons: where no rule matters, some interval still excludes 0 in about "
        f"{1 - 0.95 ** (len(rows) - 1):.0%} of runs.",
    ]
    if has_it:
        notes.append(f"Not compared, the full swarm has it already: {', '.join(has_it)}.")
    if idle:
        notes.append(f"Never came into play within this budget, so nothing is known of it: {', '.join(idle)}.")
    return Finding("ablations", rows, {"variants": VARIANTS}, notes)


def _tested(subject: Subject, climbs: list[Climbed]) -> np.ndarray:
    """(seeds, items) test scores of what each seed found."""
    return subject.tested([climbed.best for climbed in climbs])


def _course(climbs: list[Climbed]) -> dict[str, float]:
    """What the searches looked like, on average."""
    return {
        "search": float(np.mean([climbed.utility for climbed in climbs])),
        "evaluations": float(np.mean([len(climbed.visits) for climbed in climbs])),
    }


def draw(finding: Finding, axes: Axes) -> None:
    plots.intervals(axes, finding.rows[1:], "who", "difference", zero=0.0)
    axes.set_xlabel("test score, difference from the full swarm")
    axes.set_title("One rule left out at a time")
