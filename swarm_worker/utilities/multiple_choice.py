"""Whether a model picks the right one of several options.

``mode="text"`` asks how likely each option's text is, as lm-eval does (its ``acc`` and ``acc_norm``; MMLU,
arXiv:2009.03300, HellaSwag, arXiv:1905.07830): prefill only, and no answer can be malformed. ``mode="answer"`` lets the
model answer a question with lettered options and reads the letter (``options.label_in``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from swarm_worker.scoring.engine import Asked, Likelihood, Prompt, Question, Told
from swarm_worker.utilities.options import label_in, lettered
from swarm_worker.utilities.utility import Item, Verdict, mean

Mode = Literal["text", "answer"]
Normalise = Literal["sum", "token", "character"]
TIE = 1e-6


@dataclass(frozen=True, slots=True)
class MultipleChoice:
    """1 for the right option, else 0; a tie of k options that the right one is among gives 1/k.

    ``normalise``: an option's log-likelihood in all (``acc``), of a token, or of a character (``acc_norm``). ``smooth``:
    instead the right option's probability, softmax over ``beta`` times these log-likelihoods: a search climbs better on it.
    ``template``: the completion prompt of mode "text", where ``{question}`` stands; options follow after one blank. A
    chat, and an item whose prompt is complete (lm-eval's), is asked as it is. For text that is to be continued (HellaSwag) use
    "{question}". ``max_tokens``: of mode "answer"; an answer that names no option, or several, is malformed and 0.
    """

    name: ClassVar[str] = "multiple_choice"
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    needs_reference: ClassVar[bool] = False
    mode: Mode = "text"
    normalise: Normalise = "character"
    smooth: bool = False
    beta: float = 1.0
    template: str = "Question: {question}\nAnswer:"
    max_tokens: int = 32

    def __post_init__(self) -> None:
        for field, allowed in (("mode", get_args(Mode)), ("normalise", get_args(Normalise))):
            if getattr(self, field) not in allowed:
                raise ValueError(f"{field} must be one of {', '.join(allowed)}, not {getattr(self, field)!r}")
        if self.smooth and self.mode == "answer":
            raise ValueError("smooth must be false where mode is 'answer': a letter has no likelihood")
        if not self.beta > 0:
            raise ValueError(f"beta must be > 0, not {self.beta!r}")
        if "{question}" not in self.template:
            raise ValueError(f"template must hold {{question}}, not {self.template!r}")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be 1 or more, not {self.max_tokens!r}")

    def asks(self, items: Sequence[Item]) -> Asked:
        """Every option of every item, in order; or one answer an item."""
        if self.mode == "answer":
            prompts = tuple(lettered(item.question, item.options, complete=item.complete) for item in items)
            return Asked(answers=prompts, max_tokens=self.max_tokens)
        return Asked(likelihoods=tuple(self._question(item, text) for item in items for text in item.options.values()))

    def judge(self, items: Sequence[Item], told: Told, reference: Told | None) -> list[Verdict]:
        if self.mode == "answer":
            named = [label_in(answer, item.options) for item, answer in zip(items, told.answers, strict=True)]
            return [
                Verdict(float(label == item.right), malformed=label is None)
                for item, label in zip(items, named, strict=True)
            ]
        replies = iter(told.likelihoods)
        return [Verdict(self._score(item, [next(replies) for _ in item.options])) for item in items]

    def combine(self, items: Sequence[Item], values: Sequence[float | None]) -> float:
        return mean(values)

    def _question(self, item: Item, text: str) -> Question:
        prompt: Prompt = item.question
        if isinstance(prompt, str):
            shown = prompt if item.complete else self.template.replace("{question}", prompt)
            return Question(shown, f" {text}", closed=False)
        return Question(prompt, text, closed=False)

    def _score(self, item: Item, likelihoods: Sequence[Likelihood]) -> float:
        scores = {
            label: self._normalised(likelihood, text)
            for (label, text), likelihood in zip(item.options.items(), likelihoods, strict=True)
        }
        highest = max(scores.values())
        if self.smooth:
            odds = {label: math.exp(self.beta * (score - highest)) for label, score in scores.items()}
            return odds[item.right] / sum(odds.values())
        tied = [label for label, score in scores.items() if highest - score <= TIE]
        return 1.0 / len(tied) if item.right in tied else 0.0

    def _normalised(self, likelihood: Likelihood, text: str) -> float:
        if self.normalise == "sum":
            return likelihood.total
        return likelihood.mean if self.normalise == "token" else likelihood.total / len(text)
