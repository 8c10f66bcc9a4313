"""Reading an expert: what cannot be mixed is refused with the reason, before it can be mixed wrongly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from swarm_worker.expert import UnusableExpert, read_expert
from swarm_worker.hull import ExpertStack
from tests.contract.tiny_model import make_base
from tests.unit.tiny_experts import make_expert


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "biases"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa"),
        ({"peft_type": "IA3"}, "not a PEFT LoRA"),
        ({"r": 5}, "rank 4, its adapter_config.json says 5"),
        ({"alora_invocation_tokens": [1]}, "aLoRA"),
    ],
)
def test_what_cannot_be_mixed_is_refused_with_the_reason(base: Path, tmp_path: Path, change: dict, reason: str) -> None:
    """An expert whose update is not a plain B A is refused before it can be mixed wrongly."""
    folder = make_expert(base, tmp_path / "expert", seed=1)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | change))
    with pytest.raises(UnusableExpert, match=reason):
        read_expert(folder)


def test_broken_tensors_are_refused_with_the_reason(base: Path, tmp_path: Path) -> None:
    """NaN, half a pair, whole numbers, foreign tensors and no file at all are refused."""
    folder = make_expert(base, tmp_path / "expert", seed=1)
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    first = sorted(tensors)[0]
    for change, reason in (
        ({first: tensors[first] * float("nan")}, "not finite"),
        ({"base_model.model.lm_head.weight": torch.zeros(2, 2)}, "not a LoRA factor"),
        ({first: tensors[first][:2].contiguous()}, "do not multiply"),
        ({first: tensors[first].to(torch.int8)}, "stored as I8, not as a float"),
    ):
        save_file(tensors | change, file)
        with pytest.raises(UnusableExpert, match=reason):
            ExpertStack.load([folder])
    save_file({name: tensor for name, tensor in tensors.items() if name != first}, file)
    with pytest.raises(UnusableExpert, match="only one of"):
        read_expert(folder)
    file.unlink()
    with pytest.raises(UnusableExpert, match="cannot be read"):
        read_expert(folder)


def test_experts_of_different_shapes_are_refused(base: Path, tmp_path: Path) -> None:
    """Two experts of different base models do not stack."""
    one, other = (make_expert(base, tmp_path / name, seed=1) for name in ("one", "other"))
    tensors = load_file(other / "adapter_model.safetensors")
    name = next(name for name in tensors if "q_proj.lora_B" in name)
    tensors[name] = torch.zeros(64, 4)
    save_file(tensors, other / "adapter_model.safetensors")
    with pytest.raises(UnusableExpert, match=r"\(64, 128\), another expert's is \(128, 128\)"):
        ExpertStack.load([one, other])
