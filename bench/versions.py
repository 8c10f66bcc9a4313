"""Versions to swap between: the starter's experts and sums of two of them, each of which answers in its own way."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from registry.artifacts import CONFIG, TENSORS


def sums_of_two(experts: tuple[Path, ...], count: int, into: Path) -> list[Path]:
    """``count`` adapters, each the exact sum of two experts: lora_A stacked, lora_B side by side, twice the rank.

    alpha / r stays what it was, and with it the scale of both updates."""
    made = []
    for one, other in itertools.islice(itertools.combinations(experts, 2), count):
        folder = into / f"{one.name}-{other.name}"
        folder.mkdir(parents=True)
        config = json.loads((one / CONFIG).read_text())
        config |= {"r": 2 * config["r"], "lora_alpha": 2 * config["lora_alpha"]}
        left, right = load_file(one / TENSORS), load_file(other / TENSORS)
        axis = {name: 0 if ".lora_A." in name else 1 for name in left}
        tensors = {name: torch.cat([left[name], right[name]], axis[name]) for name in left}
        (folder / CONFIG).write_text(json.dumps(config))
        save_file(tensors, folder / TENSORS)
        made.append(folder)
    return made
