"""Diamonds in the rough: where the particle that ends best stood at the start (arXiv:2410.11163).

The paper: 10.4% were best at the start, 56.9% in the bottom half. Null: the start says nothing, each of the N particles is as
likely to end best; that alone gives 1/N (10% with ten) and a half, so the paper's figures need an interval to say more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from swarm_worker.analyses import plots
from swarm_worker.analyses.finding import Finding, central
from swarm_worker.analyses.subject import Climbed, Subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DRAWS = 10_000
MEASURES = ("best at the start", "in the bottom half at the start", "relative rank at the start (0 best, 1 last)")


def diamonds(subject: Subject) -> Finding:
    """Over the subject's seeds; starts and ends are utilities on the search items, as the swarm sees them."""
    climbs = [subject.climb(seed) for seed in subject.seeds]
    ranks = [relative_ranks(_starts(climbed)) for climbed in climbs]
    winners = [winner(climbed) for climbed in climbs]
    rng = np.random.default_rng(0)
    picked = np.array([_measures(ranks[run])[winners[run]] for run in range(len(climbs))])  # (seeds, 3)
    by_chance = np.stack([_measures(r)[rng.integers(len(r), size=DRAWS)] for r in ranks]).mean(axis=0)  # (draws, 3)
    resampled = picked[rng.integers(len(picked), size=(DRAWS, len(picked)))].mean(axis=1)
    rows = []
    for column, what in enumerate(MEASURES):
        share = float(picked[:, column].mean())
        low, high = wilson(share, len(picked)) if column < 2 else central(resampled[:, column])[1:]
        null, null_low, null_high = central(by_chance[:, column])
        row = {"what": what, "observed": share, "low": low, "high": high}
        rows.append({**row, "null": null, "null_low": null_low, "null_high": null_high})
    figures: dict[str, Any] = {
        "seeds": [
            {
                "seed": seed,
                "particles": len(ranks[run]),
                "particle": winners[run],
                "relative_rank": float(ranks[run][winners[run]]),
                "expert": subject.names[winners[run]] if winners[run] < len(subject.names) else None,
            }
            for run, seed in enumerate(subject.seeds)
        ]
    }
    return Finding("diamonds", rows, figures, _notes(len(climbs)))


def relative_ranks(starts: np.ndarray) -> np.ndarray:
    """(N,) 0 for the best start, 1 for the worst; equals share the mean of their ranks."""
    above = (starts[:, None] < starts).sum(axis=1)
    equal = (starts[:, None] == starts).sum(axis=1)
    return (above + (equal - 1) / 2) / max(1, len(starts) - 1)


def winner(climbed: Climbed) -> int:
    """The particle with the highest personal best; of equals the lowest number."""
    best = {number: max(_known(visit.utility) for visit in path) for number, path in climbed.particles.items()}
    return max(best, key=lambda number: (best[number], -number))


def wilson(share: float, n: int) -> tuple[float, float]:
    """The 95% score interval of a share of ``n`` (Wilson 1927): it holds at 0 and 1 and for few runs, too."""
    z = 1.96
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (share * (1 - share) / n + z**2 / (4 * n**2)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)


def _starts(climbed: Climbed) -> np.ndarray:
    return np.array([_known(path[0].utility) for path in climbed.particles.values()])


def _measures(ranks: np.ndarray) -> np.ndarray:
    """(N, 3), one column a measure."""
    return np.stack([ranks == ranks.min(), ranks > 0.5, ranks], axis=1).astype(float)


def _known(utility: float | None) -> float:
    return -np.inf if utility is None else utility


def _notes(runs: int) -> list[str]:
    return [
        "Null: every particle of a run is as likely to end best, whatever its start; the range holds 95% of such runs.",
        f"{runs} runs from the same experts: the interval is of the swarm's chance (children, velocities, draws) only.",
    ]


def draw(finding: Finding, axes: Axes) -> None:
    plots.intervals(axes, finding.rows, "what", "observed")
    for place, row in enumerate(finding.rows):
        axes.fill_betweenx([place - 0.3, place + 0.3], row["null_low"], row["null_high"], color=plots.GREY, alpha=0.3)
        axes.plot([row["null"]] * 2, [place - 0.3, place + 0.3], color=plots.GREY)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("share of runs, mean rank (grey: if the start said nothing)")
    axes.set_title("Diamonds in the rough")
