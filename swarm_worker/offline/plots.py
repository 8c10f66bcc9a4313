"""The plots beside a report. matplotlib is imported when one is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from swarm_worker.analyses.plots import BLUE, GREY, RED, figure, save


def utility_by_generation(result: dict[str, Any], file: Path) -> None:
    """What each position scored on the search items, and the best so far."""
    generations = result["search"]["generations"]
    best: list[float] = []
    drawn, axes = figure()
    for generation in generations:
        known = [utility for utility in generation["utilities"] if utility is not None]
        best.append(max([*best[-1:], *known], default=float("nan")))
        axes.plot([generation["generation"]] * len(known), known, ".", color=GREY, markersize=3)
    axes.step([one["generation"] for one in generations], best, where="post", color=BLUE, label="best so far")
    axes.set(xlabel="generation", ylabel="utility on the search items")
    axes.locator_params(axis="x", integer=True)
    axes.legend(loc="lower right", frameon=False)
    save(drawn, file)


def coefficients(result: dict[str, Any], file: Path) -> None:
    """What the found adapter is made of, largest first."""
    pairs = sorted(zip(result["coefficients"], result["names"], strict=True))
    drawn, axes = figure()
    drawn.set_figheight(1.0 + 0.28 * len(pairs))
    values = [value for value, _ in pairs]
    axes.barh([name for _, name in pairs], values, color=[RED if value < 0 else BLUE for value in values])
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set(xlabel="coefficient")
    save(drawn, file)
