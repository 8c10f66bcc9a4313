"""From coefficients to adapters: the experts' LoRA factors, stacked once, and what any mix of them is.

A position has one coefficient per column and layer group (``HullOptions``). What a mix is, in ``delta`` and in ``factors``
space, stands in ``stacked_factors.py``. Memory is the experts as they are stored, plus what is asked for.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from functools import reduce
from pathlib import Path
from typing import Self

import torch

from swarm_worker.block import Block
from swarm_worker.cut import Cut, CutFactors, cut_factors
from swarm_worker.dare import copy_rng, drop_and_rescale
from swarm_worker.expert import Expert, read_expert
from swarm_worker.hull_options import HullOptions
from swarm_worker.peft_folder import ExportDtype, write_peft_folder
from swarm_worker.stacked_factors import SPACES, MixedFactors, Space, StackedFactors, require_one_rank

__all__ = ["Cut", "ExpertStack", "ExportDtype", "HullOptions", "MixedFactors", "Space", "StackedFactors"]

LAYER_NUMBER = re.compile(r"(?:^|\.)(\d+)(?:\.|$)")
NO_OPTIONS = HullOptions()


class ExpertStack:
    """The experts of one base model, ready to be mixed. Modules are named as in the base model, sorted.

    ``n_experts`` counts the columns: experts, their sparse copies, and the base where it is one. ``modules`` has each
    module's ``StackedFactors``, ``groups`` the number of layer groups, ``dimensions`` the coefficients of a position.
    """

    def __init__(self, modules: dict[str, StackedFactors], n_files: int, base_model: str | None, options: HullOptions):
        self.modules = modules
        self.options = options
        self.base_model = base_model
        self.n_experts = options.columns(n_files)
        self.groups = options.layer_groups
        self.dimensions = options.dimensions(n_files)
        self._group = _layer_groups(list(modules), options.layer_groups)

    @classmethod
    def load(cls, folders: Sequence[Path], options: HullOptions = NO_OPTIONS) -> Self:
        """Read PEFT LoRA folders, in the order of the coefficients: one stack in the experts' own dtype (promoted where
        they differ), filled in place, and at no time more of a file than one module beside it.

        Raises ``UnusableExpert`` (a ``ValueError``) where a folder is not a plain LoRA, or where two experts disagree
        about the shape of a module; ``ValueError`` where there are more layer groups than layers.
        """
        if not folders:
            raise ValueError("an expert stack needs at least one folder")
        return cls.of([read_expert(Path(folder)) for folder in folders], options)

    @classmethod
    def of(cls, experts: Sequence[Expert], options: HullOptions = NO_OPTIONS) -> Self:
        names = sorted({name for expert in experts for name in expert.modules})
        stack = cls(
            {name: _room(name, experts, options) for name in names}, len(experts), experts[0].base_model, options
        )
        for index, expert in enumerate(experts):
            for module, a, b in expert.factors():
                stack.modules[module].put(index, a, b)
                for number in range(1, options.sparse_copies + 1):
                    rng = copy_rng(options.seed, index, number, module)
                    sparse = [drop_and_rescale(factor, options.density, rng) for factor in (a, b)]
                    stack.modules[module].put(number * len(experts) + index, *sparse)
        return stack

    def to(self, device: torch.device | str) -> Self:
        """The same stack on a device: mixes are computed there, and given there."""
        moved = copy.copy(self)
        moved.modules = {name: stacked.to(device) for name, stacked in self.modules.items()}
        return moved

    def require_space(self, space: Space) -> None:
        """Raises ``ValueError`` where ``space`` is unknown, or where these experts have no mix in it: ask before a search
        begins, not in its first generation."""
        if space not in SPACES:
            raise ValueError(f"space must be one of {', '.join(SPACES)}, not {space!r}")
        if space == "factors":
            for stacked in self.modules.values():
                require_one_rank(stacked.ranks)

    def names(self, experts: Sequence[str]) -> list[str]:
        """The names of the columns, from those of the folders that were loaded."""
        return self.options.names(experts)

    def group(self, module: str) -> int:
        """The layer group that a module belongs to."""
        return self._group[module]

    def stacked(self, module: str) -> StackedFactors:
        """What a forward pass needs to answer as many positions at once: A (R, d_in), B (d_out, R), as stored.

        In delta space dW x = B (w * (A x)), with each position's w a row of ``row_weights``.
        """
        return self.modules[module]

    def row_weights(self, module: str, positions: Sequence[Sequence[float]] | torch.Tensor) -> torch.Tensor:
        """(N, dimensions) positions to the (N, R) float32 weights of one module's rows: dW = B diag(w) A (delta space).

        Scaling and layer groups are in them; float32 on the stack's device.
        """
        return self.modules[module].row_weights(self._of_group(self._matrix(positions), module))

    def update(self, module: str, coefficients: Sequence[float], space: Space = "delta") -> torch.Tensor:
        """dW of one module at one position, (d_out, d_in) float32."""
        b, a = self.modules[module].mix(self._of_module(self._checked(coefficients, space), module), space)
        return b @ a

    def mixes(self, coefficients: Sequence[float], space: Space) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
        """Each module with its factors at one position, b (d_out, R) and a (R, d_in), float32: dW = b @ a."""
        coefficients = self._checked(coefficients, space)
        return (
            (name, *stacked.mix(self._of_module(coefficients, name), space)) for name, stacked in self.modules.items()
        )

    def generation(
        self, positions: Sequence[Sequence[float]] | torch.Tensor, space: Space
    ) -> Iterator[tuple[str, MixedFactors]]:
        """Each module with its factors at all N positions, in one pass over the stacked experts.

        ``positions`` (N, dimensions). A module's factors are computed when they are asked for: whoever keeps none holds
        the stack and one module of the generation.
        """
        matrix = self._matrix(positions)
        self.require_space(space)
        return (
            (name, stacked.generation(self._of_group(matrix, name), space)) for name, stacked in self.modules.items()
        )

    def block(self, n: int, space: Space) -> Block:
        """Memory for ``materialise`` with n positions: that of n adapters."""
        self.require_space(space)
        return Block(sum(stacked.room(n, space) for stacked in self.modules.values()), self._device)

    def materialise(
        self, positions: Sequence[Sequence[float]] | torch.Tensor, space: Space, block: Block | None = None
    ) -> dict[str, MixedFactors]:
        """All of ``generation`` at once, by module. With a ``block`` in its memory, over what it held before: a search
        that keeps one for all its generations pays for the memory once."""
        matrix = self._matrix(positions)
        block = block or self.block(len(matrix), space)
        block.take_back()
        return {
            name: stacked.generation(self._of_group(matrix, name), space, block.take)
            for name, stacked in self.modules.items()
        }

    def write(
        self,
        coefficients: Sequence[float],
        folder: Path,
        *,
        space: Space,
        max_rank: int | None = None,
        dtype: ExportDtype = "bfloat16",
    ) -> Cut:
        """Write the mix as a PEFT LoRA folder with alpha == r, so that its scaling is 1.

        Exact (but for ``dtype``) without ``max_rank``, and where its rank is at most that: in delta space the sum of the
        ranks of the experts whose coefficient is not 0. Else each module is cut to its ``max_rank`` largest singular
        values. The same coefficients give the same bytes. The folder appears complete or not at all; raises
        ``FileExistsError`` where there is one already. In bfloat16 it is half as large and answers the same: on the
        starter pack 1,000 of 1,000 greedy answers, likelihoods within .0007 (docs/log.md).
        """
        coefficients = self._checked(coefficients, space)
        if max_rank is not None and max_rank < 1:
            raise ValueError(f"max_rank must be 1 or more, not {max_rank}")
        rank = max(
            stacked.rank_of(self._of_module(coefficients, name), space) for name, stacked in self.modules.items()
        )
        limit = max_rank if max_rank is not None and rank > max_rank else None
        rank, kept, total = max(1, limit or rank), 0.0, 0.0

        def factors() -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
            nonlocal kept, total
            for name, stacked in self.modules.items():
                b, a = stacked.mix(self._of_module(coefficients, name), space)
                if limit is not None:
                    cut: CutFactors = cut_factors(b, a, limit)
                    b, a, kept, total = cut.b, cut.a, kept + cut.kept, total + cut.total
                yield name, b, a

        write_peft_folder(folder, factors(), rank=rank, base_model=self.base_model, dtype=dtype)
        return Cut(rank, kept / total if total > 0 else 1.0)

    def _checked(self, coefficients: Sequence[float], space: Space) -> Sequence[float]:
        self.require_space(space)
        if len(coefficients) != self.dimensions:
            raise ValueError(f"{len(coefficients)} coefficients for {self._wanted()}")
        return coefficients

    def _matrix(self, positions: Sequence[Sequence[float]] | torch.Tensor) -> torch.Tensor:
        matrix = torch.as_tensor(positions, dtype=torch.float32, device=self._device)
        if matrix.ndim != 2 or matrix.shape[1] != self.dimensions:
            raise ValueError(f"positions of shape {tuple(matrix.shape)} for {self._wanted()}")
        return matrix

    @property
    def _device(self) -> torch.device:
        return next(iter(self.modules.values())).scaling.device

    def _wanted(self) -> str:
        experts = f"{self.n_experts} experts"
        return experts if self.groups == 1 else f"{experts} in each of {self.groups} layer groups"

    def _of_module(self, coefficients: Sequence[float], module: str) -> Sequence[float]:
        first = self._group[module] * self.n_experts
        return coefficients[first : first + self.n_experts]

    def _of_group(self, matrix: torch.Tensor, module: str) -> torch.Tensor:
        first = self._group[module] * self.n_experts
        return matrix[:, first : first + self.n_experts]


def _room(name: str, experts: Sequence[Expert], options: HullOptions) -> StackedFactors:
    """The unfilled stack of one module."""
    present = [expert.modules[name] for expert in experts if name in expert.modules]
    for expert in experts:
        if name in expert.modules:
            expert.require_shape(name, present[0].d_out, present[0].d_in)
    ranks = [expert.modules[name].rank if name in expert.modules else 0 for expert in experts]
    scaling = [expert.modules[name].scaling if name in expert.modules else 0.0 for expert in experts]
    base, times = [0] * options.include_base, 1 + options.sparse_copies  # the base is a column without a row
    dtype = reduce(torch.promote_types, (module.dtype for module in present))
    shape = present[0].d_out, present[0].d_in
    return StackedFactors.empty(ranks * times + base, scaling * times + [0.0] * len(base), *shape, dtype)


def _layer_groups(modules: Sequence[str], groups: int) -> dict[str, int]:
    """Module to group: runs of consecutive layers, equal but for one layer; a module without a number is in the last."""
    numbers = {name: int(match[1]) for name in modules if (match := LAYER_NUMBER.search(name))}
    layers = sorted(set(numbers.values()))
    if groups > max(1, len(layers)):
        raise ValueError(
            f"layer_groups must be at most {max(1, len(layers))}, the layers that are adapted, not {groups}"
        )
    place = {layer: index * groups // len(layers) for index, layer in enumerate(layers)}
    return {name: place[numbers[name]] if name in numbers else groups - 1 for name in modules}
