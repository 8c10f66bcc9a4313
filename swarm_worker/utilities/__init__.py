"""What a search can maximise, by name."""

from __future__ import annotations

import dataclasses
from typing import Any

from swarm_worker.utilities.exact_match import ExactMatch
from swarm_worker.utilities.preference import Preference
from swarm_worker.utilities.utility import Item, Reference, Utility, mean

__all__ = ["UTILITIES", "Item", "Reference", "Utility", "make", "mean"]

UTILITIES: dict[str, Utility] = {
    "exact_match": ExactMatch(),
    "preference": Preference(),
}


def make(name: str, **parameters: Any) -> Utility:
    """A utility by name, with these parameters. Raises ``ValueError`` that names the field and its choices."""
    if name not in UTILITIES:
        raise ValueError(f"utility must be one of {', '.join(UTILITIES)}, not {name!r}")
    utility: Any = UTILITIES[name]
    choices = [field.name for field in dataclasses.fields(utility)]
    for parameter in parameters:
        if parameter not in choices:
            raise ValueError(f"{name} has no parameter {parameter!r}; it has {', '.join(choices)}")
    return dataclasses.replace(utility, **parameters)
