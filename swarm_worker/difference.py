"""How far apart two adapters are in what they add to the model: dW = scaling B A, entry by entry."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from swarm_worker.expert import read_expert

ROWS = 1024
"""Rows of dW that are held at a time: all of them may be gigabytes."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The largest difference of an entry of dW and the module that has it; ``entry``: the largest entry before, there."""

    module: str
    largest: float
    entry: float


def difference(before: Path, after: Path) -> Difference:
    """Between two PEFT LoRA folders, the module that differs most. One that a folder leaves alone is zeros there.

    Raises ``UnusableExpert`` for a folder that is no plain LoRA, or where a module has another shape.
    """
    expected, actual = read_expert(before), read_expert(after)
    for module, adapted in expected.modules.items():
        if module in actual.modules:
            actual.require_shape(module, adapted.d_out, adapted.d_in)
    halves: dict[str, list[tuple[torch.Tensor, torch.Tensor] | None]] = {}
    for place, expert in enumerate((expected, actual)):
        for module, a, b in expert.factors():
            scaled = b.double() * expert.modules[module].scaling
            halves.setdefault(module, [None, None])[place] = (scaled, a.double())
    found = [Difference(module, _largest(*both, minus=True), _largest(both[0])) for module, both in halves.items()]
    return max(found, key=lambda one: one.largest)


def _largest(*factors: tuple[torch.Tensor, torch.Tensor] | None, minus: bool = False) -> float:
    """The largest entry of B A, or with ``minus`` of B A - B' A', by magnitude: one product of the factors side by side."""
    signs = (1.0, -1.0 if minus else 1.0)
    present = [(sign * pair[0], pair[1]) for sign, pair in zip(signs, factors, strict=False) if pair is not None]
    if not present:
        return 0.0
    b, a = torch.cat([b for b, _ in present], dim=1), torch.cat([a for _, a in present], dim=0)
    return max(float((rows @ a).abs().max()) for rows in b.split(ROWS))
