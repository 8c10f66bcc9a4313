"""Forward passes: what a causal model says of packed questions, one model or several in a pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from swarm_worker.scoring.batches import batches
from swarm_worker.scoring.chat import TokenisedPair
from swarm_worker.scoring.packs import Pack, Rectangle, packs


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a batch. ``tokens``: of a forward pass, padding included; ``logits``: numbers kept of it; ``rows``: answers
    generated side by side."""

    tokens: int
    logits: int
    rows: int


# On a 2M-parameter model 1,500 to 4,000 tokens are equally fast, 512 take a quarter longer.
ON_CPU = Limits(tokens=2_048, logits=2**26, rows=128)
ON_GPU = Limits(tokens=16_384, logits=2**29, rows=1_024)


class Forward(Protocol):
    """One model, or several that share a pass: row i belongs to the model of number ``owners[i]``."""

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def vocabulary(self) -> int: ...

    def __call__(self, owners: Sequence[int], **inputs: Any) -> Any:
        """The output of transformers' ``CausalLM.forward`` for ``inputs``: ``logits``, ``past_key_values``."""
        ...


@dataclass(frozen=True, slots=True)
class Watched:
    """A ``Forward`` that calls ``on_pass`` before each pass; what that raises ends the question."""

    forward: Forward
    on_pass: Callable[[], None]

    @property
    def device(self) -> torch.device:
        return self.forward.device

    @property
    def dtype(self) -> torch.dtype:
        return self.forward.dtype

    @property
    def vocabulary(self) -> int:
        return self.forward.vocabulary

    def __call__(self, owners: Sequence[int], **inputs: Any) -> Any:
        self.on_pass()
        return self.forward(owners, **inputs)


@torch.inference_mode()
def likelihoods(forward: Forward, packed: Sequence[Pack], owners: int, questions: int, limits: Limits) -> np.ndarray:
    """(owners, questions): the log-likelihood (nats) of each answer's tokens given its prompt, summed."""
    totals = np.zeros((owners, questions))
    for rectangle in rectangles(packed, owners, limits, forward.vocabulary):
        rectangle.add(logits_of(forward, rectangle).float().log_softmax(dim=-1), totals)
    return totals


def rectangles(packed: Sequence[Pack], owners: int, limits: Limits, vocabulary: int) -> Iterator[Rectangle]:
    """Every pack for every owner, in batches whose tokens and logits fit: a vocabulary of 262k is a megabyte a token."""
    places = [(pack, owner) for pack in packed for owner in range(owners)]
    for batch in batches([len(pack) for pack, _ in places], limits.tokens):
        chosen = [places[i] for i in batch]
        size = max(1, limits.logits // (max(pack.speaking for pack, _ in chosen) * vocabulary))
        for start in range(0, len(chosen), size):
            part = chosen[start : start + size]
            yield Rectangle([pack for pack, _ in part], [owner for _, owner in part])


def logits_of(forward: Forward, rectangle: Rectangle) -> torch.Tensor:
    """The logits (P, K, vocabulary) at the places that speak of answers."""
    inputs = {name: tensor.to(forward.device) for name, tensor in rectangle.inputs(forward.dtype).items()}
    return forward(rectangle.owners, **inputs, use_cache=False, logits_to_keep=rectangle.speaking).logits


def reads_trees(forward: Forward, context: int) -> bool:
    """Whether the model reads a pack as it reads its questions alone: tried, for not every architecture takes a mask of
    its own (state-space models, positions made from the mask)."""
    length = min(6, context - 2)
    if length < 1:
        return False
    prompt = tuple(1 + i % (forward.vocabulary - 1) for i in range(length))
    pairs = [TokenisedPair(prompt, answer) for answer in ((1, 2), (2, 1), (2, 0))]
    try:
        alone, together = (
            likelihoods(forward, packs(pairs, share=share), 1, len(pairs), ON_CPU) for share in (False, True)
        )
    except (ValueError, TypeError, RuntimeError):
        return False
    return bool(np.allclose(alone, together, rtol=0, atol=1e-3 if forward.dtype == torch.float32 else 0.2))
