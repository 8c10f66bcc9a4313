"""Small PEFT adapters and a small base on disk, made with numpy: what tests register, inspect and mix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

MODULES = tuple(f"model.layers.{layer}.self_attn.{name}" for layer in (0, 1) for name in ("q_proj", "v_proj"))
WIDTH = 8
"""Every matrix of the small base is WIDTH x WIDTH."""


def write_base(folder: Path, *, width: int = WIDTH, modules: tuple[str, ...] = MODULES) -> Path:
    """A base model's folder: config.json and safetensors, of zeros."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "tie_word_embeddings": True}))
    tensors = {f"{module}.weight": np.zeros((width, width), np.float32) for module in modules}
    tensors["model.embed_tokens.weight"] = np.zeros((16, width), np.float32)
    tensors["model.norm.weight"] = np.zeros((width,), np.float32)
    save_file(tensors, folder / "model.safetensors")
    return folder


def write_adapter(
    folder: Path,
    *,
    rank: int = 4,
    seed: int = 0,
    width: int = WIDTH,
    modules: tuple[str, ...] = MODULES,
    dtype: Any = np.float32,
    config: dict[str, Any] | None = None,
    tensors: dict[str, np.ndarray] | None = None,
) -> Path:
    """A plain LoRA; ``config`` and ``tensors`` overwrite what is written."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    written = {}
    for module in modules:
        written[f"base_model.model.{module}.lora_A.weight"] = rng.normal(size=(rank, width)).astype(dtype)
        written[f"base_model.model.{module}.lora_B.weight"] = rng.normal(size=(width, rank)).astype(dtype)
    save_file({**written, **(tensors or {})}, folder / "adapter_model.safetensors")
    described = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 8,
        "target_modules": sorted({module.rsplit(".", 1)[-1] for module in modules}),
        "bias": "none",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "base",
        **(config or {}),
    }
    (folder / "adapter_config.json").write_text(json.dumps(described, indent=2))
    return folder
