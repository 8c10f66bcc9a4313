"""Whole ways to search, by name: optimiser, space and score as one choice. Pure.

``paper`` is Model Swarms as published (arXiv:2410.11163): its swarm, in factors space, on the task's own utility. ``shoal``
is what measured best here (docs/results.md); it is not a swarm.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # it would import torch
    from swarm_worker.hull import Space


@dataclass(frozen=True, slots=True)
class Preset:
    """``smooth``: the search climbs on what ``smooth`` makes of the utility instead of the utility itself."""

    optimizer: str
    space: Space
    smooth: bool
    options: dict[str, Any] = field(default_factory=dict)


PRESETS: dict[str, Preset] = {
    "shoal": Preset("bayesian", "delta", smooth=True),
    "paper": Preset("model_swarms", "factors", smooth=False, options={"preset": "paper"}),
}

LIKELIHOOD = {"exact_match", "numeric"}
"""Utilities that jump, for an answer is right or it is not; how likely the right answer is says the same smoothly."""


def smooth(name: str, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """A utility that says what this one says, without its steps; the same one where there is none, or no step."""
    if name in LIKELIHOOD:
        return "likelihood", {}
    if name == "multiple_choice":
        kept = {key: value for key, value in options.items() if key not in ("mode", "max_tokens")}
        return name, kept | {"smooth": True}
    if name == "multi":
        return name, options | {
            "tasks": {task: _smooth_task(chosen) for task, chosen in options.get("tasks", {}).items()}
        }
    return name, options


def _smooth_task(chosen: Any) -> Any:
    """A task of ``multi``: a utility's name, or its name and parameters in one mapping."""
    parameters = {"name": chosen} if isinstance(chosen, str) else dict(chosen)
    name, options = smooth(parameters.pop("name", ""), parameters)
    return {"name": name, **options}
