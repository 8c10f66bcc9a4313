"""What a run's hull is made of, beside its experts. Pure: a value for records, configs and searches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HullOptions:
    """Which columns a hull has and how many coefficients a position has, known before any tensor is read.

    The columns of n experts, in this order: the experts; ``sparse_copies`` times n sparsified copies (all the first
    copies, then all the second); with ``include_base`` the base model itself, a zero adapter. So a position that lets the
    base in need not sum to 1 over the experts, and one without any of this is what it always was.

    - ``sparse_copies``, ``density``: each copy keeps a random share ``density`` of the entries of A and of B, divided by
      it: DARE (arXiv:2311.03099, section 3.1) on the factors, as `peft` does it. Their randomness comes from
      (``seed``, expert, copy, module) alone. As PSO-Merging starts its swarm (arXiv:2508.19839).
    - ``layer_groups``: the layers are split into so many runs of consecutive layers, equal but for one layer, each with
      coefficients of its own. A position is then (groups, columns), flattened: the first group's columns first. Modules
      that belong to no layer go with the last group.

    Raises ``ValueError`` that names the field. ``dataclasses.asdict`` makes it JSON, ``HullOptions(**value)`` reads it.
    """

    include_base: bool = False
    sparse_copies: int = 0
    density: float = 0.5
    layer_groups: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        _require(isinstance(self.include_base, bool), "include_base", self.include_base, "true or false")
        _require(_whole(self.sparse_copies, 0), "sparse_copies", self.sparse_copies, "a whole number, 0 or more")
        number = isinstance(self.density, int | float) and not isinstance(self.density, bool)
        _require(number and 0 < self.density <= 1, "density", self.density, "a number in (0, 1]")
        _require(_whole(self.layer_groups, 1), "layer_groups", self.layer_groups, "a whole number, 1 or more")
        _require(_whole(self.seed, 0), "seed", self.seed, "a whole number, 0 or more")

    def columns(self, n_experts: int) -> int:
        """Coefficients of one layer group."""
        return n_experts * (1 + self.sparse_copies) + self.include_base

    def dimensions(self, n_experts: int) -> int:
        """Coefficients of a position."""
        return self.layer_groups * self.columns(n_experts)

    def names(self, experts: Sequence[str]) -> list[str]:
        """What each column is called: ``science``, ``science sparse 1``, ``base``."""
        copies = [f"{name} sparse {copy}" for copy in range(1, self.sparse_copies + 1) for name in experts]
        return [*experts, *copies, *(["base"] if self.include_base else [])]

    def dimension_names(self, experts: Sequence[str]) -> list[str]:
        """What each coefficient is called: as ``names``, and with several groups ``science layers 1/4``."""
        names = self.names(experts)
        if self.layer_groups == 1:
            return names
        groups = range(1, self.layer_groups + 1)
        return [f"{name} layers {group}/{self.layer_groups}" for group in groups for name in names]


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _require(condition: bool, field: str, value: object, allowed: str) -> None:
    if not condition:
        raise ValueError(f"{field} must be {allowed}, not {value!r}")
