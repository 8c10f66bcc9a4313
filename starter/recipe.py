"""The numbers that the starter pack is made with; what they were chosen for stands in the model card."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from starter.effect import Adaptation
from starter.training import Schedule


@dataclass(frozen=True)
class Recipe:
    """Sizes, schedules and seeds of one pack."""

    hidden: int = 192
    inner: int = 512
    layers: int = 4
    head: int = 32
    base: Schedule = field(default_factory=lambda: Schedule(steps=800, rate=2e-3, batch=64, seed=0, stop=600))
    base_weights: dict[str, float] = field(
        default_factory=lambda: {
            "reverse": 1.2,
            "dedup": 1.5,
            "sort": 0.5,
            "shift": 0.8,
            "vowels": 0.5,
            "swap": 2.5,
            "mask": 0.5,
            "initials": 1.5,
            "largest": 1.0,
        }
    )
    """How often the base meets each skill: set so that it ends with each of them right in three to five of ten."""
    rank: int = 8
    alpha: int = 16
    expert: Schedule = field(default_factory=lambda: Schedule(steps=180, rate=1.5e-3, batch=40, seed=7))
    anchor_share: float = 0.4
    anchor_strength: float = 2.0
    """Of an expert's batch, the share that holds it to the base's answers on the other skills, and how firmly."""
    test_items: int = 400
    test_seed: int = 1
    adaptation: Adaptation = field(default_factory=Adaptation)
    adaptations: int = 3
    threads: int = 1

    def describe(self) -> dict:
        """The recipe as a JSON value."""
        return asdict(self)


RECIPE = Recipe()
