"""Weak to strong: does a swarm without the best expert beat that expert? (arXiv:2410.11163: +35.4% on average.)

Null: no difference from the top expert on the same test items. Beside each swarm stands the best expert that it had, so that
what the search adds can be told from what its experts were.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from swarm_worker.analyses import plots
from swarm_worker.analyses.finding import Finding, compared
from swarm_worker.analyses.subject import Subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def weak_to_strong(subject: Subject) -> Finding:
    """Experts are ranked by their utility on the search items: the test knows nothing of the choice. Raises ``ValueError``
    for fewer than 4 experts: half of them could not be mixed."""
    if len(subject.names) < 4:
        raise ValueError(f"names must be 4 experts or more, for half of them to be mixed, not {len(subject.names)}")
    searched = subject.searched()
    ranked = sorted(range(len(searched)), key=lambda expert: -searched[expert])
    alone = subject.tested(subject.experts)
    top = alone[ranked[0]][None, :]
    lineups = {
        "all experts": ranked,
        "without the top expert": ranked[1:],
        "bottom half": ranked[-(len(ranked) // 2) :],
    }
    rows = [compared("top expert, alone", top, top, experts=1)]
    for name, lineup in lineups.items():
        members = sorted(lineup)  # the order of the coefficients must not follow the scores
        found = np.concatenate([subject.tested([subject.climb(seed, members).best]) for seed in subject.seeds])
        rows.append(compared(f"swarm, {name}", found, top, experts=len(members)))
        if name != "all experts":
            rows.append(compared(f"best expert, {name}", alone[lineup[0]][None, :], top, experts=1))
    figures = {
        "ranked": [
            {"expert": subject.names[one], "search": searched[one], "test": float(alone[one].mean())} for one in ranked
        ]
    }
    notes = [
        f"Null: no difference from the top expert, {subject.names[ranked[0]]}, on the same {top.shape[1]} test items (paired).",
        "The top expert is chosen on search items, so its test score is not flattered; nor is the swarms'.",
    ]
    return Finding("weak_to_strong", rows, figures, notes)


def draw(finding: Finding, axes: Axes) -> None:
    plots.intervals(axes, finding.rows, "who", "difference", zero=0.0)
    axes.set_xlabel("test score, difference from the top expert")
    axes.set_title("Weak to strong")
