"""Whether a model knows when to say that it does not know: effective reliability.

Whitehead et al. (ECCV 2022, arXiv:2204.13631) with cost 1, as AbstainQA uses it (Feng et al., arXiv:2402.00367): an answer
earns 1 when right and costs 1 when wrong, an abstention is 0. There the model is asked a second time whether its answer is
true; here it abstains in its answer, so that one question is enough and no second answer depends on the first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from swarm_worker.scoring.engine import Asked, Prompt, Told
from swarm_worker.utilities.exact_match import is_match
from swarm_worker.utilities.options import first_answer, label_in, lettered
from swarm_worker.utilities.utility import Item, Verdict, mean

ABSTENTION = "I don't know"
INSTRUCTION = f'If you do not know the answer, say "{ABSTENTION}".'
_LETTER_OR_ABSTENTION = f"Answer with the letter of the right option only. {INSTRUCTION}"

# The whole answer, or its first sentence: "I don't know, perhaps B" is an abstention, "B, I don't know why" is not.
_ABSTAINS = re.compile(
    r"\W*(?:sorry,?\s+|(?:the\s+)?answer\s*(?:is)?\s*:?\s*)?"
    r"(?:i\s+(?:do\s+not|don['\u2019]?t|dont)\s+know|i(?:\s+am|['\u2019]m)\s+(?:not\s+sure|unsure)|i\s+(?:cannot|can['\u2019]t)\s+answer|"
    r"i\s+abstain|abstain|unknown|unsure)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Abstain:
    """+1 for a right answer, -1 for a wrong one, 0 for an abstention.

    Items with choices are shown lettered, with the invitation to abstain; others are asked as they are plus that invitation
    and answered by exact match. An answer that names no option, and does not abstain, is malformed and -1: an unreadable
    answer must not be a way to abstain.
    """

    name: ClassVar[str] = "abstain"
    bounds: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    needs_reference: ClassVar[bool] = False
    max_tokens: int = 32

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be 1 or more, not {self.max_tokens!r}")

    def asks(self, items: Sequence[Item]) -> Asked:
        for item in items:
            _ = item.right
        return Asked(answers=tuple(_prompt(item) for item in items), max_tokens=self.max_tokens)

    def judge(self, items: Sequence[Item], told: Told, reference: Told | None) -> list[Verdict]:
        return [_verdict(item, answer) for item, answer in zip(items, told.answers, strict=True)]

    def combine(self, items: Sequence[Item], values: Sequence[float | None]) -> float:
        return mean(values)


def _prompt(item: Item) -> Prompt:
    question = item.question
    if item.choices is not None:
        if isinstance(question, str):
            question = f"{question}\n{INSTRUCTION}"
        return lettered(question, item.options, _LETTER_OR_ABSTENTION, complete=item.complete)
    if isinstance(question, str):
        return f"{INSTRUCTION}\n{question}"
    *before, last = question
    return [*before, {**last, "content": f"{last['content']}\n\n{INSTRUCTION}"}]


def _verdict(item: Item, answer: str) -> Verdict:
    text = first_answer(answer)
    if _ABSTAINS.match(text):
        return Verdict(0.0)
    if item.choices is None:
        return Verdict(1.0 if is_match(answer, item.right) else -1.0, malformed=not text)
    label = label_in(answer, item.options)
    return Verdict(1.0 if label == item.right else -1.0, malformed=label is None)
