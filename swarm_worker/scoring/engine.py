"""What a search needs from a model: how likely given answers are, and what it answers itself.

What is scored is a point of the hull (``Candidate``), an adapter as users would get it (``AdapterFolder``: a cut one, a
champion) or the base model (``BASE``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from swarm_worker.hull import Space

# Chat messages, rendered with the base model's chat template; or plain text, for completions.
Prompt = str | list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A point of the hull: one coefficient per expert of the engine's stack."""

    coefficients: tuple[float, ...]
    space: Space = "delta"


@dataclass(frozen=True, slots=True)
class AdapterFolder:
    """A PEFT LoRA folder, as it is."""

    folder: Path


@dataclass(frozen=True, slots=True)
class Base:
    """The base model alone."""


BASE = Base()
Scored = Candidate | AdapterFolder | Base


@dataclass(frozen=True, slots=True)
class TokenisedPair:
    """A prompt and an answer to it; the answer ends with the token that ends a turn, and so is never empty."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


class ScoringEngine(Protocol):
    """Every implementation guarantees: answers in the order of the questions; a score depends on its own item only
    (float noise aside), not on its neighbours or on what was scored before."""

    # Part of the key under which a utility may be cached: two engines agree to float noise only.
    identity: str

    @property
    def context(self) -> int:
        """Tokens that a prompt and its answer may have together."""
        ...

    def set_experts(self, folders: Sequence[Path]) -> None:
        """The experts that a ``Candidate``'s coefficients speak of; loaded once, a repeated call costs nothing."""
        ...

    def tokenise(self, prompt: Prompt, answer: str) -> TokenisedPair: ...

    def log_likelihoods(self, scored: Scored, pairs: Sequence[TokenisedPair]) -> list[float]:
        """The mean log-likelihood (nats) of the answer's tokens given the prompt, per pair.

        Raises ``ValueError`` for a pair longer than the model's context.
        """
        ...

    def generate(self, scored: Scored, prompts: Sequence[Prompt], max_tokens: int) -> list[str]:
        """The greedy answer to each prompt, without its end-of-turn token, at most ``max_tokens`` long."""
        ...
