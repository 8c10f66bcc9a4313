"""Sparsified copies of an expert: DARE, drop and rescale (Yu et al., arXiv:2311.03099, section 3.1)."""

from __future__ import annotations

import zlib

import numpy as np
import torch


def copy_rng(seed: int, expert: int, copy: int, module: str) -> np.random.Generator:
    """The only source of a copy's randomness, the same in every process: a stream for (seed, expert, copy, module)."""
    return np.random.default_rng(np.random.SeedSequence([seed, expert, copy, zlib.crc32(module.encode())]))


def drop_and_rescale(tensor: torch.Tensor, density: float, rng: np.random.Generator) -> torch.Tensor:
    """Each entry kept with probability ``density`` and then divided by it, else 0: the mean over draws is ``tensor``.

    On factors A and B drawn apart, the mean of the product is B A, too. Float32; exact where 1 / density is a power of 2.
    """
    kept = torch.from_numpy(rng.random(tensor.shape, dtype=np.float32) < density)
    return torch.where(kept.to(tensor.device), tensor.float() / density, 0.0)
