"""What the registry lets a caller ask for is what the workers can do."""

from __future__ import annotations

from typing import get_args

from registry.records import RunSpec
from swarm_worker.search import OPTIMIZERS
from swarm_worker.utilities import UTILITIES


def test_every_optimizer_that_may_be_asked_for_exists() -> None:
    """``RunSpec`` and the table of optimisers name the same ones."""
    assert set(get_args(RunSpec.model_fields["optimizer"].annotation)) == set(OPTIMIZERS)


def test_every_utility_that_may_be_asked_for_exists() -> None:
    """A run's utility is one of the table."""
    assert set(get_args(RunSpec.model_fields["utility"].annotation) or ("preference",)) <= set(UTILITIES)
