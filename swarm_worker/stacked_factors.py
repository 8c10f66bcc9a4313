"""One module's factors of all experts, one under the other, and every way of mixing them.

With c a layer group's coefficients, s the experts' scalings (alpha / r, or alpha / sqrt(r) with rsLoRA) and
dW_i = s_i B_i A_i the update of expert i, there are two ways to mix (``space``):

- ``delta``:   dW = sum_i c_i s_i B_i A_i, exactly. Stacked: dW = B diag(w) A, B (d_out, R), A (R, d_in), R the sum of the
  ranks, w the number c_i s_i of each row's expert: whoever mixes only weighs the R rows.
- ``factors``: dW = (sum_i c_i s_i B_i) (sum_i c_i A_i), as Model Swarms publishes it (arXiv:2410.11163): an expert's own
  update weighs c_i ** 2, and there are cross terms; exact only where the experts share A. Defined where the experts have
  one rank: which row of a smaller A meets which row of a larger one is nobody's choice, so that is refused. An expert
  that leaves the module alone adds to neither sum: whatever else stood for its A would be invented.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Self

import torch

Space = Literal["delta", "factors"]
SPACES = ("delta", "factors")
Room = Callable[..., torch.Tensor]  # shape -> an unfilled float32 tensor


def require_one_rank(ranks: Sequence[int]) -> None:
    """Raises ``ValueError`` where experts of these ranks (0: not adapted) have no mix in factors space."""
    several = sorted({rank for rank in ranks if rank})
    if len(several) > 1:
        raise ValueError(
            f"space must be 'delta', not 'factors', for experts of ranks {', '.join(map(str, several))}: "
            "matrices of different ranks have no sum"
        )


@dataclass(frozen=True, slots=True)
class MixedFactors:
    """One module of a whole generation, float32: dW of position k is ``b[k] @ a[k]``, or ``b[k] @ a`` where A is shared.

    ``b`` (N, d_out, R); ``a`` (N, R, d_in) in factors space, (R, d_in), the same for all, in delta space.
    """

    a: torch.Tensor
    b: torch.Tensor

    def updates(self) -> torch.Tensor:
        """dW of every position, (N, d_out, d_in)."""
        return self.b @ self.a


@dataclass(frozen=True, slots=True)
class StackedFactors:
    """One module's factors of all columns of the hull: ``a`` (R, d_in), ``b`` (d_out, R), in the experts' own dtype.

    R is the sum of the ``ranks``; a column that leaves the module alone has rank 0 and takes no row. ``owner`` (R,) is the
    column of each row. ``scaling`` (n,), float32, is kept apart, so that stacking rounds nothing. ``b`` is a view of
    its transpose, which is how it lies in memory: both factors are blocks of an expert's rows.
    """

    a: torch.Tensor
    b: torch.Tensor
    scaling: torch.Tensor
    owner: torch.Tensor
    ranks: tuple[int, ...]

    @classmethod
    def empty(cls, ranks: Sequence[int], scaling: Sequence[float], d_out: int, d_in: int, dtype: torch.dtype) -> Self:
        """Room for all columns, to be filled by ``put``."""
        rows = sum(ranks)
        a, b = torch.empty(rows, d_in, dtype=dtype), torch.empty(rows, d_out, dtype=dtype).T
        owner = torch.repeat_interleave(torch.arange(len(ranks)), torch.tensor(ranks))
        return cls(a, b, torch.tensor(scaling, dtype=torch.float32), owner, tuple(ranks))

    def put(self, column: int, a: torch.Tensor, b: torch.Tensor) -> None:
        """Write a column's A (r, d_in) and B (d_out, r) in its place."""
        first = sum(self.ranks[:column])
        rows = slice(first, first + self.ranks[column])
        self.a[rows] = a
        self.b[:, rows] = b

    def to(self, device: torch.device | str) -> Self:
        """The same factors on a device; mixes are computed, and given, there."""
        moved = {name: getattr(self, name).to(device) for name in ("a", "scaling", "owner")}
        return replace(self, **moved, b=self.b.T.to(device).T)

    def row_weights(self, coefficients: torch.Tensor) -> torch.Tensor:
        """(N, n) coefficients to the (N, R) weights w of delta space: dW = B diag(w) A."""
        return (coefficients.to(self.scaling) * self.scaling)[..., self.owner]

    def rank_of(self, coefficients: Sequence[float], space: Space) -> int:
        """The inner dimension of ``mix``'s factors, known before they are computed."""
        if space == "factors":
            return self._common_rank()
        return sum(rank for rank, c in zip(self.ranks, coefficients, strict=True) if c)

    def mix(self, coefficients: Sequence[float], space: Space) -> tuple[torch.Tensor, torch.Tensor]:
        """Factors (d_out, R), (R, d_in) of one mix, float32. R is r for factors; for delta it is the sum of the ranks of
        the experts whose coefficient is not 0. The same bits on every CPU: only sums and products, in one order."""
        c = self._tensor(coefficients)
        if space == "factors":
            return self._sum(c * self.scaling, self.b.T).T, self._sum(c, self.a)
        a, rows_of_b, weights = self.a, self.b.T, self.row_weights(c)
        kept = c[self.owner] != 0
        if not kept.all():
            a, rows_of_b, weights = a[kept], rows_of_b[kept], weights[kept]
        return (rows_of_b.float() * weights[:, None]).T, a.float()

    def generation(self, coefficients: torch.Tensor, space: Space, room: Room | None = None) -> MixedFactors:
        """The factors of N mixes at once, from (N, n) coefficients, in memory that ``room`` gives for a shape. Raises
        ``ValueError`` where ``space`` is factors and the experts' ranks differ."""
        c = self._tensor(coefficients)
        room = room or partial(torch.empty, device=c.device)
        if space == "delta":
            rows_of_b = self.b.T.float()
            b = room(len(c), *rows_of_b.shape)
            torch.mul(self.row_weights(c)[:, :, None], rows_of_b, out=b)
            return MixedFactors(self.a.float(), b.transpose(1, 2))
        rank = self._common_rank()
        present = [column for column, own in enumerate(self.ranks) if own]
        # One product for each factor: (N, n) with the experts' factors, each laid out as one row.
        mixed = []
        for weights, rows in ((c, self.a), (c * self.scaling, self.b.T)):
            out = room(len(c), rank * rows.shape[1])
            torch.mm(weights[:, present], rows.float().view(len(present), -1), out=out)
            mixed.append(out.view(len(c), rank, -1))
        return MixedFactors(mixed[0], mixed[1].transpose(1, 2))

    def _sum(self, weights: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """sum_i w_i X_i over the experts' blocks of ``rows``, (r, d). One after the other in float64: a matrix product
        would be rounded in the order that a CPU's kernel likes, and a rounding to bfloat16 may show it."""
        blocks = rows.view(-1, self._common_rank(), rows.shape[1])
        present = [column for column, own in enumerate(self.ranks) if own]
        total = torch.zeros(blocks.shape[1:], dtype=torch.float64, device=rows.device)
        for column, block in zip(present, blocks, strict=True):
            total += weights[column].double() * block.double()
        return total.float()

    def room(self, n: int, space: Space) -> int:
        """How many numbers ``generation`` asks room for, for n mixes."""
        if space == "delta":
            return n * self.b.numel()
        return n * self._common_rank() * (self.a.shape[1] + self.b.shape[0])

    def _tensor(self, coefficients: Sequence[float] | torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(coefficients, dtype=torch.float32, device=self.scaling.device)

    def _common_rank(self) -> int:
        require_one_rank(self.ranks)
        return max(self.ranks)
