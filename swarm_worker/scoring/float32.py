"""Faster float32 products on CPU, where the processor has them exactly.

PyTorch multiplies float32 matrices with MKL, which runs at a fraction of an AMD processor's speed (80 GFLOP/s a core
where oneDNN reaches 200). Allowing oneDNN bfloat16 inside makes PyTorch call oneDNN; whether that then really rounds
depends on the processor (with AMX it does, with AVX-512 alone it computes in float32), so it is tried first.
"""

from __future__ import annotations

import functools

import torch
from torch import nn


def speed_up_linears(model: nn.Module) -> None:
    """Let the linear layers of ``model`` multiply through oneDNN, unless that would round.

    Only they: small products, such as those of attention, take longer that way.
    """
    if not _is_exact():
        return
    for module in model.modules():
        if type(module) is nn.Linear:
            module.forward = functools.partial(_linear, module)


def _linear(module: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    matmul = torch.backends.mkldnn.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        # Of a slice of a batch, as the output layer gets it, PyTorch would copy the weight once a row: with a vocabulary of
        # 262k that is three quarters of a pass.
        return nn.functional.linear(x.flatten(0, -2), module.weight, module.bias).unflatten(0, x.shape[:-1])
    finally:
        matmul.fp32_precision = before


@functools.cache
def _is_exact() -> bool:
    """Whether a product that bfloat16 gets wrong by more than 0.1 comes out as float64 has it."""
    if not torch.backends.mkldnn.is_available():
        return False
    random = torch.Generator().manual_seed(1)
    layer = nn.Linear(512, 512, bias=False)
    layer.weight.data = torch.randn(512, 512, generator=random)
    x = torch.randn(512, 512, generator=random)
    with torch.no_grad():
        error = _linear(layer, x).double() - x.double() @ layer.weight.double().T
    return bool(error.abs().max() < 1e-3)
