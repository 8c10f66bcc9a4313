"""Adapters of random numbers in the shape of real models: as large as real ones, made in seconds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file


@dataclass(frozen=True, slots=True)
class Shape:
    """The linear modules of a decoder: their (d_out, d_in) in each of ``layers`` layers."""

    layers: int
    modules: dict[str, tuple[int, int]]

    @classmethod
    def of(cls, layers: int, hidden: int, intermediate: int, queries: int, keys: int) -> Shape:
        """``queries`` and ``keys``: heads times the width of one."""
        attention = {"q": (queries, hidden), "k": (keys, hidden), "v": (keys, hidden), "o": (hidden, queries)}
        mlp = {"gate": (intermediate, hidden), "up": (intermediate, hidden), "down": (hidden, intermediate)}
        names = {f"self_attn.{name}_proj": shape for name, shape in attention.items()}
        return cls(layers, names | {f"mlp.{name}_proj": shape for name, shape in mlp.items()})


# From the config.json of each: all linear modules of the decoder layers.
SHAPES = {
    "gemma-3-270m": Shape.of(layers=18, hidden=640, intermediate=2048, queries=1024, keys=256),
    "llama-2-7b": Shape.of(layers=32, hidden=4096, intermediate=11008, queries=4096, keys=4096),
}


def write_pool(root: Path, shape: Shape, experts: int, rank: int, dtype: torch.dtype, seed: int) -> list[Path]:
    """Write ``experts`` PEFT LoRA folders: normal entries of standard deviation 0.02, scaling 1."""
    return [_write_expert(root / f"expert-{i}", shape, rank, dtype, seed * 1000 + i) for i in range(experts)]


def _write_expert(folder: Path, shape: Shape, rank: int, dtype: torch.dtype, seed: int) -> Path:
    random = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(shape.layers):
        for module, (d_out, d_in) in shape.modules.items():
            name = f"base_model.model.model.layers.{layer}.{module}"
            for factor, size in (("A", (rank, d_in)), ("B", (d_out, rank))):
                values = torch.empty(size, dtype=dtype).normal_(0.0, 0.02, generator=random)
                tensors[f"{name}.lora_{factor}.weight"] = values
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "base_model_name_or_path": None}
    targets = sorted({module.rpartition(".")[2] for module in shape.modules})
    (folder / "adapter_config.json").write_text(json.dumps(config | {"target_modules": targets}))
    return folder


def pool_bytes(folders: list[Path]) -> int:
    """The bytes of the pool's tensors, in its files."""
    return sum((folder / "adapter_model.safetensors").stat().st_size for folder in folders)
