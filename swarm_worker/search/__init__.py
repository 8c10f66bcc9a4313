"""Searches of the hull, by name. Pure: no server, no tensor library."""

from __future__ import annotations

import dataclasses
from typing import Any

from swarm_worker.search.bayesian import Bayesian
from swarm_worker.search.cma_es import CmaEs
from swarm_worker.search.generations import Generations
from swarm_worker.search.lorahub import LoraHub
from swarm_worker.search.model_swarms import ModelSwarms
from swarm_worker.search.optimizer import Best, Coefficients, Move, Optimizer, Outcome
from swarm_worker.search.random_search import RandomSearch
from swarm_worker.search.swarm_options import PRESETS

__all__ = ["OPTIMIZERS", "PRESETS", "Best", "Coefficients", "Move", "Optimizer", "Outcome", "from_json", "make"]

OPTIMIZERS: dict[str, type[Generations]] = {
    "bayesian": Bayesian,
    "cma_es": CmaEs,
    "lorahub": LoraHub,
    "model_swarms": ModelSwarms,
    "random_search": RandomSearch,
}


def make(name: str, *, n_experts: int, seed: int, groups: int = 1, **options: Any) -> Generations:
    """A search by name, at generation 0. ``groups``: layer groups of the hull; a position has n_experts * groups
    coefficients, group by group. ``model_swarms`` also takes ``preset``: "paper", "reference" or "shoal" (the default).

    Raises ``ValueError`` that names the field and its choices for an unknown name, an unknown option or a bad value.
    """
    optimizer = _by_name(name)
    if name == "model_swarms" and "preset" in options:
        options = _preset(options.pop("preset")) | options
    choices = [field.name for field in dataclasses.fields(optimizer.options_type)]
    for option in options:
        if option not in choices:
            raise ValueError(f"{name} has no option {option!r}; it has {', '.join(choices)}")
    try:
        return optimizer(n_experts, seed, optimizer.options_type(**options), groups)
    except TypeError as error:  # a word where a number belongs: options come from JSON
        raise ValueError(f"an option of {name} has the wrong type: {error}") from error


def from_json(value: dict[str, Any]) -> Generations:
    """The search that ``to_json`` wrote, whatever its kind; it goes on exactly as the original would."""
    return _by_name(value["optimizer"]).from_json(value)


def _by_name(name: str) -> type[Generations]:
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, not {name!r}")
    return OPTIMIZERS[name]


def _preset(name: str) -> dict[str, Any]:
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, not {name!r}")
    return PRESETS[name]
