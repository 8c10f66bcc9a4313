"""The best approximation of lower rank, and how much of an update it keeps."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Cut:
    """How an adapter was written: its rank, and the share of the update's squared norm that the rank kept (1: all)."""

    rank: int
    retained_energy: float


@dataclass(frozen=True, slots=True)
class CutFactors:
    """One module's update of a lower rank, float32: ``b`` (d_out, r) and ``a`` (r, d_in); squared norms of dW."""

    b: torch.Tensor
    a: torch.Tensor
    kept: float
    total: float


def cut_factors(b: torch.Tensor, a: torch.Tensor, max_rank: int) -> CutFactors:
    """The nearest matrix to ``b @ a`` of rank ``max_rank`` in every unitarily invariant norm (Eckart-Young-Mirsky).

    B = Q_b R_b and A^T = Q_a R_a, so BA = Q_b (R_b R_a^T) Q_a^T: the SVD is of a matrix as small as the rank. Where the
    update's own rank is lower, so is the cut's.
    """
    q_b, r_b = torch.linalg.qr(b.double())
    q_a, r_a = torch.linalg.qr(a.double().T)
    u, s, vt = torch.linalg.svd(r_b @ r_a.T)
    # Below this a singular value is a rounding of zero, and its vectors are another LAPACK's or another thread's others.
    meant = int((s > s[:1] * max(len(b), a.shape[1]) * torch.finfo(s.dtype).eps).sum())
    rank = min(max_rank, meant)
    root = s[:rank].sqrt()
    cut_b = q_b @ (u[:, :rank] * root)
    cut_a = (root[:, None] * vt[:rank]) @ q_a.T
    # A singular pair is known but for its sign: fix it, or another LAPACK writes other bytes.
    largest = cut_b.abs().argmax(dim=0)
    sign = torch.where(cut_b[largest, torch.arange(rank, device=b.device)] < 0, -1.0, 1.0)
    kept, total = float(s[:rank].square().sum()), float(s.square().sum())
    return CutFactors((cut_b * sign).float(), (cut_a * sign[:, None]).float(), kept, total)
