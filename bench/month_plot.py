"""The picture of the simulated months: what share of answers was right, week by week, for each way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.month_world import BURST, DRIFT, MISTAKE, POISONED
from swarm_worker.analyses.plots import BLUE, GREY, RED, figure, save

TOLD = {
    "off": "no loop",
    "loop": "the loop",
    "no_confirm": "no confirmation",
    "no_gate": "no gate",
    "no_canary": "no canary",
    "nothing": "none of the three",
}
COLORS = {
    "off": GREY,
    "loop": BLUE,
    "no_confirm": "#b7791f",
    "no_gate": RED,
    "no_canary": "#6b46c1",
    "nothing": "black",
}
EVENTS = {MISTAKE: "bad release", BURST: "burst", POISONED: "poison", (DRIFT[0] + DRIFT[1]) // 2 - 1: "drift"}


def draw(played: Sequence[dict[str, Any]], file: Path) -> None:
    """One line a way, the mean over seeds."""
    drawn, axes = figure()
    for name in played[0]["ways"]:
        weekly = [[week["utility"] for week in told["ways"][name]["weeks"]] for told in played]
        mean = [100 * sum(values) / len(values) for values in zip(*weekly, strict=True)]
        width = 2.4 if name == "loop" else 1.2
        axes.plot(range(len(mean)), mean, color=COLORS.get(name, GREY), linewidth=width, label=TOLD.get(name, name))
    for week, word in EVENTS.items():
        axes.axvline(week, color=GREY, linewidth=0.6, linestyle=":")
        axes.text(week, axes.get_ylim()[1], word, fontsize=7, ha="center", va="bottom", color=GREY)
    axes.set(xlabel="week", ylabel="answers that are right, %")
    axes.legend(loc="upper right", bbox_to_anchor=(1.0, 0.45), ncols=2, frameon=False, fontsize=8)
    save(drawn, file)
