"""How the analyses draw: one figure, saved as PNG without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE = (7.2, 4.2)  # inches
DPI = 150
BLUE, RED, GREY = "#2b6cb0", "#c05621", "#8a8f98"


def figure() -> tuple[Figure, Axes]:
    """A figure with one pair of axes. matplotlib is imported here, so that what draws nothing need not have it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    FigureCanvasAgg(drawn)
    axes = drawn.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return drawn, axes


def save(drawn: Figure, file: Path) -> Path:
    """The same figure gives the same bytes."""
    drawn.savefig(file, format="png", metadata={"Software": None})
    return file


def intervals(axes: Axes, rows: Sequence[Mapping[str, Any]], label: str, value: str, zero: float | None = None) -> None:
    """A dot and its 95% interval (``low``, ``high``) for each row, the first on top, in the row's ``color`` where it has one;
    ``zero``: a line for no difference."""
    for place, row in enumerate(rows):
        color = row.get("color", BLUE)
        axes.plot([row["low"], row["high"]], [place, place], color=color, linewidth=2, solid_capstyle="round")
        axes.plot(row[value], place, "o", color=color)
    if zero is not None:
        axes.axvline(zero, color=GREY, linewidth=1, linestyle="--")
    axes.set_yticks(range(len(rows)), [str(row[label]) for row in rows])
    axes.invert_yaxis()
    axes.margins(y=0.1)
