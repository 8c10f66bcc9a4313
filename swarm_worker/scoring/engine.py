"""What a search asks of a model: how likely given answers are, and what it answers itself.

What is scored is a point of the hull (``Candidate``), an adapter as users would get it (``AdapterFolder``: a cut one, a
champion) or the base model (``BASE``). One question may be put to any number of them at once: how they share a batch is
the engine's affair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from swarm_worker.hull import HullOptions, Space

# Chat messages, rendered with the base model's chat template; or plain text, for completions.
Prompt = str | list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A point of the hull: one coefficient per expert of the engine's stack (and layer group, where it has several)."""

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


class Question(NamedTuple):
    """How likely is ``answer``? ``closed``: with the token that ends an answer, as a model that stops there says it; open
    is for the options of a choice, of which none is a whole answer."""

    prompt: Prompt
    answer: str
    closed: bool = True


class Likelihood(NamedTuple):
    """The log-likelihood (nats) of an answer's tokens given its prompt, in all, and how many they are."""

    total: float
    tokens: int

    @property
    def mean(self) -> float:
        """Of a token."""
        return self.total / self.tokens


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody wants to know of a model. ``answers``: prompts to be answered greedily in ``max_tokens`` at most."""

    likelihoods: tuple[Question, ...] = ()
    answers: tuple[Prompt, ...] = ()
    max_tokens: int = 64


@dataclass(frozen=True, slots=True)
class Told:
    """What a model said to an ``Asked``, in its order. Answers come without the token that ends them."""

    likelihoods: tuple[Likelihood, ...] = ()
    answers: tuple[str, ...] = ()


class ScoringEngine(Protocol):
    """Every implementation guarantees, and tests/contract/test_scoring_engine.py checks: replies in the order of the
    questions; a reply depends on its own question and model only (float noise aside), not on its neighbours, on who else
    is asked, or on what was asked before."""

    # Part of the key under which a utility may be cached: two engines agree to float noise only.
    identity: str

    @property
    def context(self) -> int:
        """Tokens that a prompt and its answer may have together."""
        ...

    def set_experts(self, folders: Sequence[Path], options: HullOptions = HullOptions()) -> None:  # noqa: B008 - frozen
        """The hull that a ``Candidate``'s coefficients speak of; loaded once, a repeated call costs nothing."""
        ...

    def length(self, prompt: Prompt, answer: str) -> int:
        """Tokens of a prompt and an answer together. Raises where the base's chat template refuses the prompt."""
        ...

    def ask(self, scored: Sequence[Scored], asked: Asked) -> list[Told]:
        """The replies of each of ``scored``, in order.

        Raises ``ValueError`` for a question longer than the model's context, or one whose answer has no token.
        """
        ...


class WatchedEngine(ScoringEngine, Protocol):
    """One that can be watched at its work: ``on_pass`` is called before each pass of the model. What it raises ends the
    question; the next one is answered as ever."""

    on_pass: Callable[[], None]


def answers_of(engine: ScoringEngine, scored: Scored, prompts: Sequence[Prompt], max_tokens: int) -> list[str]:
    """The greedy answer of one model to each prompt."""
    return list(engine.ask([scored], Asked(answers=tuple(prompts), max_tokens=max_tokens))[0].answers)
