"""Experts for the tests of hull, scoring and utilities: PEFT LoRA adapters with random factors, made by `peft`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

torch.set_num_threads(1)  # tests share their cores; several threads that wait for each other are slower than one


def load_base(base: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()


def make_expert(base: Path, folder: Path, seed: int, size: float = 0.1, **config: Any) -> Path:
    """Write an adapter whose A and B are random; ``config`` goes to ``LoraConfig``."""
    options = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"], **config}
    model = get_peft_model(load_base(base), LoraConfig(task_type="CAUSAL_LM", **options))
    random = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=random) * size
    model.save_pretrained(folder)
    return folder


def write_expert(
    folder: Path, seed: int, ranks: Mapping[str, int], *, d_out: int = 5, d_in: int = 7, **config: Any
) -> Path:
    """Write an adapter without any base model: random factors of the given rank for each module, alpha 3, float32.

    ``dtype`` stores them in another type; anything else goes to ``adapter_config.json``.
    """
    dtype = config.pop("dtype", torch.float32)
    random = torch.Generator().manual_seed(seed)
    tensors = {}
    for module, rank in ranks.items():
        for factor, shape in (("A", (rank, d_in)), ("B", (d_out, rank))):
            tensors[f"base_model.model.{module}.lora_{factor}.weight"] = torch.randn(shape, generator=random).to(dtype)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    written = {"peft_type": "LORA", "r": max(ranks.values()), "lora_alpha": 3, "rank_pattern": dict(ranks)}
    (folder / "adapter_config.json").write_text(json.dumps(written | config))
    return folder


def logits_of(base: Path, folder: Path | None, edit: Callable[[PreTrainedModel], None] | None = None) -> torch.Tensor:
    """The logits of base + adapter, as `peft` computes them, on fixed tokens; ``edit`` changes the base first."""
    model = load_base(base)
    if edit is not None:
        edit(model)
    if folder is not None:
        model = PeftModel.from_pretrained(model, str(folder)).eval()
    tokens = torch.arange(3, 43).reshape(2, 20)
    with torch.no_grad():
        return model(input_ids=tokens).logits
