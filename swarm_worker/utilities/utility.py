"""What a search maximises: a score per item, and their mean. Higher is better, always."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self

from swarm_worker.scoring.engine import Prompt, Scored, ScoringEngine


@dataclass(frozen=True, slots=True)
class Item:
    """One example: a question (``messages`` or a plain ``prompt``) with an answer known to be good, one known to be
    bad, or both. ``digest`` names its content; where it is not given it is computed."""

    messages: list[dict[str, Any]] | None = None
    prompt: str | None = None
    good: str | None = None
    bad: str | None = None
    digest: str = field(default="")

    def __post_init__(self) -> None:
        if (self.messages is None) == (self.prompt is None):
            raise ValueError("an item has either messages or a prompt")
        if self.good is None and self.bad is None:
            raise ValueError("an item has a good answer, a bad answer, or both")
        if not self.digest:
            content = json.dumps([self.messages, self.prompt, self.good, self.bad], sort_keys=True)
            object.__setattr__(self, "digest", hashlib.sha256(content.encode()).hexdigest())

    @property
    def question(self) -> Prompt:
        return self.prompt if self.messages is None else self.messages  # type: ignore[return-value]  # never both None

    def to_json(self) -> dict[str, Any]:
        return {
            "messages": self.messages,
            "prompt": self.prompt,
            "good": self.good,
            "bad": self.bad,
            "digest": self.digest,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(**{name: value.get(name) for name in ("messages", "prompt", "good", "bad")}, digest=value["digest"])


@dataclass(frozen=True, slots=True)
class Reference:
    """What the reference (the champion when the snapshot was frozen) says of each item, computed once for a run.

    ``likelihoods``: its mean log-likelihood of each item's answer. Empty for a utility that compares with no reference.
    """

    likelihoods: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"likelihoods": list(self.likelihoods)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(tuple(float(likelihood) for likelihood in value["likelihoods"]))


class Utility(Protocol):
    """Every implementation guarantees, and tests/unit/test_utilities.py checks: scores in the order of the items, each
    in [0, 1], each of its own item only; a constant answer does not score above the majority class."""

    name: ClassVar[str]

    def prepare(self, engine: ScoringEngine, reference: Scored, items: Sequence[Item]) -> Reference:
        """What ``scores`` needs to know of the reference, for exactly these items in this order."""
        ...

    def scores(
        self, engine: ScoringEngine, scored: Scored, items: Sequence[Item], reference: Reference
    ) -> list[float]: ...


def mean(scores: Sequence[float]) -> float:
    """The utility of a candidate. Raises ``ValueError`` without scores."""
    if not scores:
        raise ValueError("the utility of no items is not defined")
    return sum(scores) / len(scores)
