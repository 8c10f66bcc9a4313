"""Diversity: as many slots, filled by fewer distinct experts (arXiv:2410.11163: 1x10, 2x5, 5x2, 10x1; 10 distinct
against 1 repeated: +35.3%).

The hull of one repeated expert is one point: that swarm cannot move, and the paper's +35.3% compares a search with no search.
So beside each swarm stands the best of the experts that it had, chosen on the search items: the null is no difference from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from swarm_worker.analyses import plots
from swarm_worker.analyses.finding import Finding, compared, difference
from swarm_worker.analyses.subject import Subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def diversity(subject: Subject) -> Finding:
    """Slots are as many as experts, and particles as many as always. Which experts are distinct is drawn for each seed; those
    of a smaller line-up are among those of a larger one."""
    slots = len(subject.names)
    searched, alone = subject.searched(), subject.tested(subject.experts)
    rows: list[dict[str, Any]] = []
    scores: dict[int, np.ndarray] = {}
    lineups: list[dict[str, Any]] = []
    for distinct in distinct_counts(slots):
        found, members = [], []
        for seed in subject.seeds:
            drawn = np.random.default_rng(seed).permutation(slots)[:distinct].tolist()
            best = subject.climb(seed, [drawn[slot % distinct] for slot in range(slots)]).best
            found.append(subject.tested([best])[0])
            members.append(alone[max(drawn, key=lambda expert: searched[expert])])
            lineups.append({"distinct": distinct, "seed": seed, "experts": [subject.names[one] for one in drawn]})
        scores[distinct] = np.stack(found)
        member = np.stack(members)
        name = f"{distinct} x {slots // distinct}" if slots % distinct == 0 else f"{distinct} in {slots} slots"
        rows.append(compared(name, scores[distinct], member, distinct=distinct, best_member=float(member.mean())))
    spread = difference(scores[1], scores[slots])
    figures = {
        "most_against_one": {"difference": spread.mean, "low": spread.low, "high": spread.high},
        "lineups": lineups,
    }
    return Finding("diversity", rows, figures, _notes(spread.mean, spread.low, spread.high, slots))


def distinct_counts(slots: int) -> list[int]:
    """As the paper's 1, 2, 5, 10: the divisors of the slots where there are some between; else 1, 2, half, all."""
    divisors = [count for count in range(1, slots + 1) if slots % count == 0]
    return divisors if len(divisors) > 2 else sorted({1, min(2, slots), max(1, slots // 2), slots})


def _notes(gain: float, low: float, high: float, slots: int) -> list[str]:
    return [
        "Null: no difference from the best expert of the line-up (paired on test items). One repeated expert spans one point, "
        "so its row is that expert.",
        f"{slots} distinct against 1 repeated: {gain:+.3f} ({low:+.3f} to {high:+.3f}); the one is drawn at random.",
    ]


def draw(finding: Finding, axes: Axes) -> None:
    distinct = [row["distinct"] for row in finding.rows]
    axes.errorbar(
        distinct,
        [row["test"] for row in finding.rows],
        yerr=[row["spread"] for row in finding.rows],
        color=plots.BLUE,
        marker="o",
        capsize=3,
        label="swarm (bar: standard deviation over seeds)",
    )
    axes.plot(distinct, [row["best_member"] for row in finding.rows], "--s", color=plots.GREY, label="its best expert")
    axes.set_xticks(distinct, [row["who"] for row in finding.rows])
    axes.set_xlabel("distinct experts x copies")
    axes.set_ylabel("test score")
    axes.set_title("Diversity of the experts")
    axes.legend(frameon=False)
