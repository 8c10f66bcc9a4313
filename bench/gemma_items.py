"""The questions of the real-model study: each source trains an expert, and a target is a source for the experts of others.

The files are evaluation sets in the Model Swarms JSON format; ``dev`` and ``test`` are taken together, for a target is
split anew and a source is only trained on.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from swarm_worker.datasets import load, question_text
from swarm_worker.utilities import Item, MultipleChoice

SOURCES = ("medmcqa", "mmlu", "gsm8k", "medqa", "knowledge_crosswords", "hellaswag")


@dataclass(frozen=True, slots=True)
class Target:
    """A set whose own source trains no expert of the pool. ``normalise``: how its options' log-likelihoods are compared,
    as lm-eval does; ``beta`` makes the smooth score of them about as steep for both. ``longest``: characters of a question
    with its options: so long that the study fits two cores."""

    name: str
    normalise: str
    beta: float
    longest: int


TARGETS = {
    "hellaswag": Target("hellaswag", "character", beta=20.0, longest=900),
    "mmlu": Target("mmlu", "sum", beta=1.0, longest=600),
}


@dataclass(frozen=True, slots=True)
class Parts:
    """A target's items: those the search sees, those its finding must be confirmed on, those of the figures at the end."""

    search: tuple[Item, ...]
    confirm: tuple[Item, ...]
    test: tuple[Item, ...]


def items_of(data: Path, source: str) -> list[Item]:
    """All questions of a source, each once."""
    dataset = load(data / f"{source}.json", deduplicate=True)
    return [*dataset.test, *dataset.dev]


def pair_of(item: Item) -> tuple[str, str]:
    """A question and its right answer, as ``multiple_choice`` puts them to the model."""
    if item.choices is None:
        return str(item.question), f" {item.right}"
    return MultipleChoice().template.replace("{question}", str(item.question).strip()), f" {item.options[item.right]}"


def parts_of(data: Path, target: Target, sources: Sequence[str], sizes: tuple[int, int, int], seed: int = 0) -> Parts:
    """Disjoint search, confirm and test items of a target, ``sizes`` many, in an order drawn from ``seed``.

    Raises ``ValueError`` where there are too few, or where one of them is a question that trains one of ``sources``.
    """
    items = [item for item in items_of(data, target.name) if _length(item) <= target.longest]
    if len(items) < sum(sizes):
        raise ValueError(
            f"{target.name} has {len(items)} questions of at most {target.longest} characters, not {sizes}"
        )
    trained = {question_text(item) for source in sources for item in items_of(data, source)}
    if leaked := [item.question for item in items if question_text(item) in trained]:
        raise ValueError(f"{len(leaked)} questions of {target.name} train an expert, the first is {leaked[0]!r}")
    random.Random(seed).shuffle(items)
    search, confirm, test = sizes
    return Parts(
        tuple(items[:search]),
        tuple(items[search : search + confirm]),
        tuple(items[search + confirm : search + confirm + test]),
    )


def _length(item: Item) -> int:
    return len(str(item.question)) + sum(len(text) for text in (item.choices or {}).values())
