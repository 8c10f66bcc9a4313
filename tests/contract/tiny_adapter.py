"""A random PEFT adapter for the tiny base, written without torch: it is quick to make."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

WIDTH, LAYERS = 128, 2
MODULES = ("q_proj", "v_proj")


def make_adapter(
    folder: Path, seed: int, *, rank: int = 8, size: float = 0.3, modules: tuple[str, ...] = MODULES
) -> Path:
    """Write a random PEFT adapter for square layers. ``size``: that of lora_B; 0 does nothing, ``nan`` is broken."""
    random = np.random.default_rng(seed)
    tensors = {}
    for layer in range(LAYERS):
        for module in modules:
            key = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            tensors[f"{key}.lora_A.weight"] = random.standard_normal((rank, WIDTH), dtype=np.float32)
            tensors[f"{key}.lora_B.weight"] = random.standard_normal((WIDTH, rank), dtype=np.float32) * np.float32(size)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "target_modules": list(modules),
        "bias": "none",
        "base_model_name_or_path": "tiny",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
