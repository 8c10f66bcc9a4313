"""Many positions in one forward pass: each row of a batch takes the update of the position it belongs to.

In delta space all positions share the stacked factors and differ in the weights of their rows only: with A (R, d_in) and
B (d_out, R) of all experts, a row x of position k becomes W x + B (w_k * (A x)). In factors space each position has mixed
factors of its own, A_k and B_k of the experts' one rank, and a row becomes W x + B_k (A_k x).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from swarm_worker.hull import ExpertStack, MixedFactors, Space
from swarm_worker.scoring.merging import linear


class StackedModel:
    """A ``Forward`` of several positions of a hull: within ``at``, row i is answered by position ``owners[i]``."""

    def __init__(self, model: PreTrainedModel, stack: ExpertStack) -> None:
        self.model = model
        self.device = model.device
        self.dtype = model.dtype
        self.vocabulary = int(model.config.get_text_config().vocab_size)
        self._stack = stack.to(model.device)
        self._modules = {name: linear(model, name) for name in stack.modules}
        factors = ((name, self._stack.stacked(name)) for name in self._modules)
        self._factors = {name: (f.a.to(self.dtype), f.b.to(self.dtype)) for name, f in factors}
        self._owners = torch.zeros(0, dtype=torch.long)

    def __call__(self, owners: Sequence[int], **inputs: Any) -> Any:
        self._owners = torch.tensor(owners, device=self.device)
        return self.model(**inputs)

    @contextmanager
    def at(self, positions: Sequence[Sequence[float]], space: Space) -> Iterator[StackedModel]:
        """For a while, the model of number k is ``positions[k]``. Raises ``ValueError`` where a position does not belong
        to the hull."""
        with torch.inference_mode(), ExitStack() as exits:
            for name, add in self._additions(positions, space):
                hook = self._modules[name].register_forward_hook(add)
                exits.callback(hook.remove)
            yield self

    def _additions(self, positions: Sequence[Sequence[float]], space: Space) -> Iterator[tuple[str, Any]]:
        if space == "factors":
            for name, mixed in self._stack.generation(positions, space):
                yield name, self._own_factors(name, mixed)
        else:
            for name in self._modules:
                weights = self._stack.row_weights(name, positions).to(self.dtype)
                yield name, self._own_weights(name, weights)

    def _own_weights(self, name: str, weights: torch.Tensor) -> Any:
        """``weights`` (N, R): those of the stacked rows, a line a position."""
        a, b = self._factors[name]

        def add(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            x = self._rows(name, inputs[0])
            return output.add_(nn.functional.linear(nn.functional.linear(x, a) * weights[self._owners, None], b))

        return add

    def _own_factors(self, name: str, mixed: MixedFactors) -> Any:
        a, b = mixed.a.to(self.dtype).transpose(1, 2), mixed.b.to(self.dtype).transpose(1, 2)

        def add(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            x = self._rows(name, inputs[0])
            return output.add_(x @ a[self._owners] @ b[self._owners])

        return add

    def _rows(self, name: str, x: torch.Tensor) -> torch.Tensor:
        if x.ndim != 3 or len(x) != len(self._owners):
            raise ValueError(
                f"{name} sees {tuple(x.shape)} for {len(self._owners)} rows: this model mixes the rows of a batch before "
                "its linear modules, so several positions cannot share a pass; use mode='merged'"
            )
        return x
