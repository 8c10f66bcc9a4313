"""Write an adapter as the folder that `peft` and vLLM load, complete or not at all."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import nn

ExportDtype = Literal["bfloat16", "float32"]
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def write_peft_folder(
    folder: Path,
    factors: Iterable[tuple[str, torch.Tensor, torch.Tensor]],
    *,
    rank: int,
    base_model: str | None,
    dtype: ExportDtype = "bfloat16",
) -> None:
    """Write (module, B, A) triples, B (d_out, r) and A (r, d_in) with dW = B A and r <= ``rank``, as a PEFT LoRA folder.

    alpha == r, so that its scaling is 1; lower ranks are filled with zeros. Takes one module at a time, so that only what
    is written is in memory. The folder appears complete or not at all; raises ``FileExistsError`` where there is one
    already. The same factors give the same bytes.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists already")
    tensors: dict[str, torch.Tensor] = {}
    suffixes = set()
    for module, b, a in factors:
        missing = rank - b.shape[1]
        padded_b, padded_a = nn.functional.pad(b, (0, missing)), nn.functional.pad(a, (0, 0, 0, missing))
        tensors[f"base_model.model.{module}.lora_A.weight"] = padded_a.to("cpu", DTYPES[dtype]).contiguous()
        tensors[f"base_model.model.{module}.lora_B.weight"] = padded_b.to("cpu", DTYPES[dtype]).contiguous()
        suffixes.add(module.rpartition(".")[2])
    _write(folder, _config(base_model, rank, sorted(suffixes)), tensors)


def _config(base_model: str | None, rank: int, target_modules: list[str]) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "target_modules": target_modules,
    }


def _write(folder: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        unfinished.chmod(0o755)  # mkdtemp makes it private; a registry and a service read it
        (unfinished / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        save_file(tensors, unfinished / "adapter_model.safetensors", metadata={"format": "pt"})
        unfinished.replace(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
