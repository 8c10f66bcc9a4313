"""From coefficients to an adapter: the experts' LoRA factors, stacked once, and what a mix of them is.

Two ways to mix (``space``), with c the coefficients and dW_i = B_i A_i the update of expert i:

- ``delta``:   dW = sum_i c_i * B_i A_i, exactly; its rank is at most the sum of the experts' ranks;
- ``factors``: dW = (sum_i c_i B_i) (sum_i c_i A_i), as Model Swarms publishes it (arXiv:2410.11163): an expert's own
  update weighs c_i ** 2, and there are cross terms; exact only where the experts share A.

The expert's scaling (alpha / r, or alpha / sqrt(r) with rsLoRA) is part of B from the moment it is loaded.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from safetensors.torch import save_file
from torch import nn

from swarm_worker.expert import Expert, read_expert

Space = Literal["delta", "factors"]
ExportDtype = Literal["bfloat16", "float32"]

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True, slots=True)
class Cut:
    """How an adapter was written: its rank, and the share of the update's squared norm that the rank kept (1: all)."""

    rank: int
    retained_energy: float


@dataclass(frozen=True, slots=True)
class StackedFactors:
    """One module's factors of all n experts, float32: ``a`` (n, r, d_in), ``b`` (n, d_out, r), scaling in b.

    Lower ranks, and experts that leave the module alone (rank 0), are filled with zeros; ``ranks`` says where.
    """

    a: torch.Tensor
    b: torch.Tensor
    ranks: tuple[int, ...]

    def mix(self, coefficients: Sequence[float], space: Space) -> tuple[torch.Tensor, torch.Tensor]:
        """Factors (d_out, R), (R, d_in) of the mix. R is r for factors; for delta it is the sum of the ranks of the
        experts whose coefficient is not 0."""
        c = torch.tensor(coefficients, dtype=self.a.dtype)
        if space == "factors":
            return torch.einsum("n,nor->or", c, self.b), torch.einsum("n,nri->ri", c, self.a)
        weighted = (self.b * c.view(-1, 1, 1)).permute(1, 0, 2).flatten(1)  # (d_out, n * r)
        stacked = self.a.flatten(0, 1)  # (n * r, d_in)
        width = self.a.shape[1]
        kept = [i * width + j for i, rank in enumerate(self.ranks) if coefficients[i] for j in range(rank)]
        return (weighted, stacked) if len(kept) == len(stacked) else (weighted[:, kept], stacked[kept])


class ExpertStack:
    """n experts of one base model, ready to be mixed. Modules are named as in the base model, sorted."""

    def __init__(self, modules: dict[str, StackedFactors], n_experts: int, base_model: str | None) -> None:
        self.modules = modules
        self.n_experts = n_experts
        self.base_model = base_model

    @classmethod
    def load(cls, folders: list[Path]) -> Self:
        """Read PEFT LoRA folders, in the order of the coefficients.

        Raises ``UnusableExpert`` (a ``ValueError``) where a folder is not a plain LoRA, or where two experts disagree
        about the shape of a module.
        """
        if not folders:
            raise ValueError("an expert stack needs at least one folder")
        return cls.of([read_expert(folder) for folder in folders])

    @classmethod
    def of(cls, experts: Sequence[Expert]) -> Self:
        names = sorted({name for expert in experts for name in expert.modules})
        modules = {name: _stack(name, experts) for name in names}
        return cls(modules, len(experts), experts[0].base_model)

    def update(self, module: str, coefficients: Sequence[float], space: Space = "delta") -> torch.Tensor:
        """dW of one module, (d_out, d_in) float32."""
        b, a = self.modules[module].mix(self._checked(coefficients, space), space)
        return b @ a

    def write(
        self,
        coefficients: Sequence[float],
        folder: Path,
        *,
        space: Space,
        max_rank: int,
        dtype: ExportDtype = "bfloat16",
    ) -> Cut:
        """Write the mix as a PEFT LoRA folder with alpha == r, so that its scaling is 1.

        Exact (but for ``dtype``) where its rank is at most ``max_rank``; else each module is cut to its ``max_rank``
        largest singular values. The same coefficients give the same bytes. The folder appears complete or not at all;
        raises ``FileExistsError`` where there is one already. In bfloat16 it is half as large and answers the same: on
        the starter pack 1,000 of 1,000 greedy answers, likelihoods within .0007 (docs/log.md).
        """
        coefficients = self._checked(coefficients, space)
        if max_rank < 1:
            raise ValueError(f"max_rank must be 1 or more, not {max_rank}")
        factors = {name: stacked.mix(coefficients, space) for name, stacked in self.modules.items()}
        retained = 1.0
        if max(b.shape[1] for b, _ in factors.values()) > max_rank:
            factors, retained = _cut(factors, max_rank)
        rank = max(1, *(b.shape[1] for b, _ in factors.values()))
        _write_folder(folder, _peft_config(self, rank), _peft_tensors(factors, rank, DTYPES[dtype]))
        return Cut(rank, retained)

    def _checked(self, coefficients: Sequence[float], space: Space) -> Sequence[float]:
        if len(coefficients) != self.n_experts:
            raise ValueError(f"{len(coefficients)} coefficients for {self.n_experts} experts")
        if space not in ("delta", "factors"):
            raise ValueError(f"space must be one of delta, factors, not {space!r}")
        return coefficients


def _stack(name: str, experts: Sequence[Expert]) -> StackedFactors:
    present = [expert.modules[name] for expert in experts if name in expert.modules]
    d_out, d_in = present[0].b.shape[0], present[0].a.shape[1]
    rank = max(factors.a.shape[0] for factors in present)
    a = torch.zeros(len(experts), rank, d_in)
    b = torch.zeros(len(experts), d_out, rank)
    for i, expert in enumerate(experts):
        factors = expert.modules.get(name)
        if factors is not None:
            expert.require_shape(name, d_out, d_in)
            a[i, : factors.a.shape[0]] = factors.a
            b[i, :, : factors.b.shape[1]] = factors.b
    ranks = [expert.modules[name].a.shape[0] if name in expert.modules else 0 for expert in experts]
    return StackedFactors(a, b, tuple(ranks))


Factors = dict[str, tuple[torch.Tensor, torch.Tensor]]


def _cut(factors: Factors, max_rank: int) -> tuple[Factors, float]:
    """Each module's best approximation of rank ``max_rank`` (Eckart-Young), and the share of squared norm kept in all.

    B = Q_b R_b and A^T = Q_a R_a, so BA = Q_b (R_b R_a^T) Q_a^T: the SVD is of a matrix as small as the rank.
    """
    cut: Factors = {}
    kept = total = 0.0
    for name, (b, a) in factors.items():
        q_b, r_b = torch.linalg.qr(b.double())
        q_a, r_a = torch.linalg.qr(a.double().T)
        u, s, vt = torch.linalg.svd(r_b @ r_a.T)
        rank = min(max_rank, len(s))
        root = s[:rank].sqrt()
        cut_b = q_b @ (u[:, :rank] * root)
        cut_a = (root[:, None] * vt[:rank]) @ q_a.T
        # A singular pair is known but for its sign: fix it, or another LAPACK writes other bytes.
        largest = cut_b.abs().argmax(dim=0)
        sign = torch.where(cut_b[largest, torch.arange(rank)] < 0, -1.0, 1.0)
        cut[name] = ((cut_b * sign).float(), (cut_a * sign[:, None]).float())
        kept += float(s[:rank].square().sum())
        total += float(s.square().sum())
    return cut, kept / total if total > 0 else 1.0


def _peft_config(stack: ExpertStack, rank: int) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": stack.base_model,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "target_modules": sorted({name.rpartition(".")[2] for name in stack.modules}),
    }


def _peft_tensors(factors: Factors, rank: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, (b, a) in factors.items():
        missing = rank - b.shape[1]
        padded_b = nn.functional.pad(b, (0, missing))
        padded_a = nn.functional.pad(a, (0, 0, 0, missing))
        tensors[f"base_model.model.{name}.lora_A.weight"] = padded_a.to(dtype).contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = padded_b.to(dtype).contiguous()
    return tensors


def _write_folder(folder: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    if folder.exists():
        raise FileExistsError(f"{folder} exists already")
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
