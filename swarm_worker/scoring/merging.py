"""A resident model whose linear weights can be made the base's plus one update, and the base's again.

A merge always starts from the saved copy of the base's weights, so nothing drifts: the thousandth candidate scores what
it would score as the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from swarm_worker.hull import ExpertStack, Space
from swarm_worker.scoring.chat import TokenisedPair
from swarm_worker.scoring.forward import reads_trees


class MergedModel:
    """A ``Forward`` of whatever is merged now. Updates are added in float32 and rounded to the model's dtype once."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.device = model.device
        self.dtype = model.dtype
        self.vocabulary = int(model.config.get_text_config().vocab_size)
        self._base: dict[str, torch.Tensor] = {}
        self._changed: set[str] = set()

    def __call__(self, owners: Sequence[int], **inputs: Any) -> Any:
        return self.model(**inputs)

    @property
    def context(self) -> int:
        """Tokens that a prompt and its answer may have together."""
        return int(getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or 2**31)

    def may_share(self, pairs: Sequence[TokenisedPair]) -> bool:
        """Whether questions may share what they begin with: the model reads trees, and its sliding attention, where it has
        any, lets each question see itself whole."""
        config = self.model.config.get_text_config()
        windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
        return self._reads_trees and all(not window or len(pair) <= window for window in windows for pair in pairs)

    @cached_property
    def _reads_trees(self) -> bool:
        return reads_trees(self, self.context)

    @torch.inference_mode()
    def merge(self, stack: ExpertStack, coefficients: Sequence[float], space: Space) -> None:
        """Raises ``ValueError`` where the stack adapts a module that the model lacks, or that cannot be merged into."""
        self.restore(but=stack.modules)
        for name, *factors in stack.mixes(coefficients, space):
            base, weight = self._saved(name), self.model.get_submodule(name).weight
            b, a = (factor.to(base.device) for factor in factors)
            self._changed.add(name)
            if weight.dtype == torch.float32:
                torch.addmm(base, b, a, out=weight)  # one pass over the weights instead of three
            else:
                weight.copy_(base + b @ a)

    @torch.inference_mode()
    def restore(self, but: Sequence[str] | dict[str, Any] = ()) -> None:
        """Make the weights the base's again; those of the modules ``but`` are about to be written anyway."""
        for name in self._changed.difference(but):
            self.model.get_submodule(name).weight.copy_(self._base[name])
            self._changed.discard(name)

    def _saved(self, name: str) -> torch.Tensor:
        """The base's own weight of a linear module, copied before it is first changed."""
        if name not in self._base:
            module = linear(self.model, name)
            if module.weight is self.model.get_input_embeddings().weight:
                raise ValueError(f"{name} is tied to the input embeddings: merging into it would change those too")
            self._base[name] = module.weight.clone()
        return self._base[name]


def linear(model: nn.Module, name: str) -> nn.Linear:
    """A linear module by name. Raises ``ValueError`` where there is none."""
    try:
        module = model.get_submodule(name)
    except AttributeError as error:
        raise ValueError(f"the base model has no module {name}") from error
    if not isinstance(module, nn.Linear):
        raise ValueError(f"{name} is a {type(module).__name__}; only linear modules can be adapted")
    return module


def adapter_file(folder: Path) -> tuple[Path, int]:
    """Which adapter lies in a folder: another one written to the same place has another time."""
    file = folder / "adapter_model.safetensors"
    return file, file.stat().st_mtime_ns if file.exists() else 0
