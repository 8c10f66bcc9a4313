"""What a search maximises. Higher is better, always.

A utility says what a model must be asked about some items, and judges what it was told: it never speaks to an engine
itself, so any number of positions can share one question, and a utility can be tested with no model at all.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self

from swarm_worker.scoring.engine import Asked, Prompt, Scored, ScoringEngine, Told


@dataclass(frozen=True, slots=True)
class Item:
    """One example: a question (``messages`` or a plain ``prompt``) and what is known of its answers.

    ``good``, ``bad``: an answer known to be right, one known to be wrong. ``choices``: the options by label; ``good`` is
    then the right one's label. ``task``: the part of a ``multi`` utility that the item belongs to. ``complete``: its options
    follow the prompt as it is (lm-eval's), which no template may wrap. ``digest`` names its content; where it is not given it
    is computed.
    """

    messages: list[dict[str, Any]] | None = None
    prompt: str | None = None
    good: str | None = None
    bad: str | None = None
    choices: dict[str, str] | None = None
    task: str | None = None
    complete: bool = False
    digest: str = field(default="")

    def __post_init__(self) -> None:
        if (self.messages is None) == (self.prompt is None):
            raise ValueError("an item has either messages or a prompt")
        if self.choices is not None and self.good not in self.choices:
            raise ValueError(f"good must be one of the choices {', '.join(self.choices)}, not {self.good!r}")
        if not self.digest:
            content: list[Any] = [self.messages, self.prompt, self.good, self.bad]
            if self.choices is not None:  # kept out where there are none: digests of older snapshots stay what they are
                content.append(self.choices)
            if self.complete:
                content.append("complete")
            object.__setattr__(self, "digest", hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest())

    @property
    def question(self) -> Prompt:
        return self.prompt if self.messages is None else self.messages  # type: ignore[return-value]  # never both None

    @property
    def right(self) -> str:
        """The good answer. Raises ``ValueError`` where none is known."""
        if self.good is None:
            raise ValueError(f"item {self.digest[:12]} has no good answer")
        return self.good

    @property
    def right_text(self) -> str:
        """The good answer in words: where the item has choices, the text of the right one. Raises ``ValueError`` as
        ``right``."""
        return self.right if self.choices is None else self.choices[self.right]

    @property
    def options(self) -> dict[str, str]:
        """The choices. Raises ``ValueError`` where there are fewer than two, or one is empty."""
        choices = self.choices or {}
        if len(choices) < 2 or not all(text.strip() for text in choices.values()):
            raise ValueError(f"item {self.digest[:12]} needs two or more choices, none empty, not {choices!r}")
        return choices

    def to_json(self) -> dict[str, Any]:
        return {
            "messages": self.messages,
            "prompt": self.prompt,
            "good": self.good,
            "bad": self.bad,
            "choices": self.choices,
            "task": self.task,
            "complete": self.complete,
            "digest": self.digest,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        names = ("messages", "prompt", "good", "bad", "choices", "task")
        return cls(
            **{name: value.get(name) for name in names}, complete=bool(value.get("complete")), digest=value["digest"]
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a utility says of one item. ``malformed``: the answer did not have the form that was asked for; it is scored
    all the same, and counted. ``score`` None: nobody could judge it, which is no score."""

    score: float | None
    malformed: bool = False


@dataclass(frozen=True, slots=True)
class Scores:
    """A position's score on each item, in the order of the items, and what became of their answers' form.

    ``utility`` is NaN where nobody could judge a single item; an ``Outcome`` makes a failure of that."""

    values: tuple[float | None, ...]
    utility: float
    malformed: int = 0

    @property
    def unjudged(self) -> int:
        return sum(value is None for value in self.values)

    @property
    def error(self) -> str | None:
        """Why there is no utility, where there is none."""
        return "no item could be judged" if math.isnan(self.utility) else None


class Utility(Protocol):
    """Every implementation guarantees, and tests/unit/test_utilities.py checks: verdicts in the order of the items, each
    of its own item only; a constant answer does not score above the majority class."""

    name: ClassVar[str]

    bounds: ClassVar[tuple[float, float]]
    """The lowest and the highest score that an item can have."""

    @property
    def needs_reference(self) -> bool:
        """Whether positions are compared with a reference: the champion when the snapshot was frozen."""
        ...

    def asks(self, items: Sequence[Item]) -> Asked:
        """What a model must be asked. Raises ``ValueError`` for an item that lacks what the utility needs."""
        ...

    def judge(self, items: Sequence[Item], told: Told, reference: Told | None) -> list[Verdict]:
        """``told``, ``reference``: replies to ``asks`` of exactly these items, of a position and of the reference."""
        ...

    def combine(self, items: Sequence[Item], values: Sequence[float | None]) -> float:
        """One number from the scores of the items, usually ``mean``."""
        ...


class NothingJudged(ValueError):
    """Nobody could judge a single item of a position (or of one of its tasks): it has no utility."""


def mean(scores: Sequence[float | None]) -> float:
    """Of the items that could be judged. Raises ``NothingJudged`` where there is none, ``ValueError`` without items."""
    if not scores:
        raise ValueError("the utility of no items is not defined")
    judged = [score for score in scores if score is not None]
    if not judged:
        raise NothingJudged(f"none of the {len(scores)} items could be judged")
    return sum(judged) / len(judged)


def measure(
    utility: Utility,
    engine: ScoringEngine,
    scored: Sequence[Scored],
    items: Sequence[Item],
    reference: Told | None = None,
) -> list[Scores]:
    """The scores of each of ``scored`` on the same items, asked of the engine at once. ``reference``: see ``reference_of``."""
    return [scores_of(utility, items, told, reference) for told in engine.ask(scored, utility.asks(items))]


def scores_of(utility: Utility, items: Sequence[Item], told: Told, reference: Told | None) -> Scores:
    """The scores of replies that are there already: an ensemble's, say."""
    verdicts = utility.judge(items, told, reference)
    values = tuple(verdict.score for verdict in verdicts)
    try:
        combined = utility.combine(items, values)
    except NothingJudged:
        combined = math.nan  # this position's failure, not that of those it was asked with
    return Scores(values, combined, sum(verdict.malformed for verdict in verdicts))


def reference_of(utility: Utility, engine: ScoringEngine, champion: Scored, items: Sequence[Item]) -> Told | None:
    """What the reference says of the items, asked once for a run; None for a utility that compares with nothing."""
    return engine.ask([champion], utility.asks(items))[0] if utility.needs_reference else None
