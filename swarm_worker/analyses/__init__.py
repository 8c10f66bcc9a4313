"""The analyses of the paper (arXiv:2410.11163), by name: each with its null, its table and its plot."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from swarm_worker.analyses import ablations, diamonds, diversity, dropout, emergence, trajectories, weak_to_strong
from swarm_worker.analyses.finding import Finding
from swarm_worker.analyses.subject import Subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ANALYSES", "Analysis", "Finding", "Subject"]


class Analysis(NamedTuple):
    """``look`` at a subject, ``draw`` what was found; ``question``: what it answers, in a line."""

    look: Callable[[Subject], Finding]
    draw: Callable[[Finding, Axes], None]
    question: str


ANALYSES: dict[str, Analysis] = {
    "emergence": Analysis(
        emergence.emergence, emergence.draw, "Does the swarm solve items that every expert fails, more than by chance?"
    ),
    "diamonds": Analysis(diamonds.diamonds, diamonds.draw, "Where did the particle that ends best stand at the start?"),
    "weak_to_strong": Analysis(
        weak_to_strong.weak_to_strong, weak_to_strong.draw, "Does a swarm without the top expert beat it?"
    ),
    "diversity": Analysis(diversity.diversity, diversity.draw, "How much do distinct experts add over repeated ones?"),
    "ablations": Analysis(ablations.ablations, ablations.draw, "What is each rule of the swarm worth?"),
    "dropout": Analysis(dropout.dropout, dropout.draw, "What does skipping evaluations save, and what does it cost?"),
    "trajectories": Analysis(trajectories.trajectories, trajectories.draw, "Where do the particles go?"),
}
