"""Trajectories: where the particles of a swarm go, in the two directions in which their positions vary most.

Positions are points of the hull, n coefficients each, so nothing but arithmetic is projected: principal axes by SVD of all the
positions of a search about their mean. Distances in the plot are at most those in the hull; ``retained`` says how much they keep.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from swarm_worker.analyses import plots
from swarm_worker.analyses.finding import Finding
from swarm_worker.analyses.subject import Subject, Visit

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Projection(NamedTuple):
    """``centre`` (n,) and two orthonormal ``axes`` (2, n); ``retained``: their share of the squared distances from it."""

    centre: np.ndarray
    axes: np.ndarray
    retained: tuple[float, float]

    def of(self, positions: np.ndarray) -> np.ndarray:
        """(m, n) -> (m, 2)."""
        return (positions - self.centre) @ self.axes.T


def principal_axes(positions: np.ndarray) -> Projection:
    """Of positions (m, n), n at least 2. Each axis points where its largest coefficient grows: SVD leaves the sign open."""
    centre = positions.mean(axis=0)
    _, sizes, directions = np.linalg.svd(positions - centre, full_matrices=True)
    axes = directions[:2]
    largest = np.abs(axes).argmax(axis=1)
    axes = axes * np.where(axes[np.arange(2), largest] < 0, -1.0, 1.0)[:, None]
    energy = np.zeros(2)
    energy[: len(sizes[:2])] = sizes[:2] ** 2
    share = energy / max(float((sizes**2).sum()), np.finfo(float).tiny)
    return Projection(centre, axes, (float(share[0]), float(share[1])))


def trajectories(subject: Subject) -> Finding:
    """Of the first seed's search. The best path is that of the particle that found the highest utility, up to there."""
    climbed = subject.climb(subject.seeds[0])
    paths = climbed.particles
    visits = [visit for path in paths.values() for visit in path]
    projection = principal_axes(np.array([visit.position for visit in visits]))
    best = max(visits, key=lambda visit: -np.inf if visit.utility is None else visit.utility)
    figures: dict[str, Any] = {
        "seed": subject.seeds[0],
        "axes": [dict(zip(subject.names, axis, strict=True)) for axis in projection.axes.tolist()],
        "retained": list(projection.retained),
        "experts": dict(zip(subject.names, projection.of(np.eye(len(subject.names))).tolist(), strict=True)),
        "particles": [_path(projection, path) for path in paths.values()],
        "best": {"particle": best.particle, "generation": best.generation, "utility": best.utility},
    }
    rows = [_generation([visit for visit in visits if visit.generation == g]) for g in range(climbed.generations)]
    kept = sum(projection.retained)
    notes = [
        f"Two axes keep {kept:.0%} of the squared distances between positions ({len(subject.names)} coefficients each).",
        "spread: root mean square distance of the particles from their mean, in coefficients.",
    ]
    return Finding("trajectories", [row for row in rows if row["scored"]], figures, notes)


def _path(projection: Projection, path: list[Visit]) -> dict[str, Any]:
    return {
        "particle": path[0].particle,
        "generations": [visit.generation for visit in path],
        "positions": projection.of(np.array([visit.position for visit in path])).tolist(),
        "utilities": [visit.utility for visit in path],
    }


def _generation(visits: list[Visit]) -> dict[str, Any]:
    positions = np.array([visit.position for visit in visits])
    known = [visit.utility for visit in visits if visit.utility is not None]
    if not known:
        return {"scored": 0}
    spread = float(np.sqrt(((positions - positions.mean(axis=0)) ** 2).sum(axis=1).mean()))
    row = {"generation": visits[0].generation, "scored": len(known), "spread": spread}
    return {**row, "best": max(known), "mean": float(np.mean(known))}


def draw(finding: Finding, axes: Axes) -> None:
    figures = finding.figures
    for path in figures["particles"]:
        x, y = np.array(path["positions"]).T
        axes.plot(x, y, "-", color=plots.GREY, alpha=0.4, linewidth=0.8)
        axes.plot(x[-1], y[-1], ".", color=plots.GREY)
    best = next(path for path in figures["particles"] if path["particle"] == figures["best"]["particle"])
    upto = best["generations"].index(figures["best"]["generation"]) + 1
    x, y = np.array(best["positions"][:upto]).T
    axes.plot(x, y, "-o", color=plots.RED, markersize=3, label=f"particle {best['particle']}, which found the best")
    axes.plot(x[-1], y[-1], "*", color=plots.RED, markersize=14)
    for name, (left, up) in figures["experts"].items():
        axes.plot(left, up, "s", color=plots.BLUE, markersize=5)
        axes.annotate(name, (left, up), (4, 4), textcoords="offset points", fontsize=8)
    first, second = figures["retained"]
    axes.set_xlabel(f"first principal axis ({first:.0%})")
    axes.set_ylabel(f"second principal axis ({second:.0%})")
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_title("Trajectories of the particles")
    axes.legend(frameon=False)
