"""An engine that asks another one each question only once: many measures of one position cost one pass."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swarm_worker.hull import HullOptions
from swarm_worker.scoring.engine import Asked, Likelihood, Prompt, Question, Scored, ScoringEngine, Told

_Key = tuple[str, ...]


class Remembering:
    """A ``ScoringEngine`` over another. What it holds is of one hull: ``set_experts`` forgets."""

    def __init__(self, engine: ScoringEngine) -> None:
        self._engine = engine
        self.identity = engine.identity
        self._likelihoods: defaultdict[Scored, dict[_Key, Likelihood]] = defaultdict(dict)
        self._answers: defaultdict[Scored, dict[_Key, str]] = defaultdict(dict)

    @property
    def context(self) -> int:
        return self._engine.context

    def length(self, prompt: Prompt, answer: str) -> int:
        return self._engine.length(prompt, answer)

    def set_experts(self, folders: Sequence[Path], options: HullOptions = HullOptions()) -> None:  # noqa: B008 - frozen
        self._likelihoods.clear()
        self._answers.clear()
        self._engine.set_experts(folders, options)

    def ask(self, scored: Sequence[Scored], asked: Asked) -> list[Told]:
        """What nobody of ``scored`` was asked yet is asked of all of them at once."""
        questions = {_key(question): question for question in asked.likelihoods}
        prompts = {(*_prompt(prompt), str(asked.max_tokens)): prompt for prompt in asked.answers}
        open_questions = [key for key in questions if any(key not in self._likelihoods[one] for one in scored)]
        open_prompts = [key for key in prompts if any(key not in self._answers[one] for one in scored)]
        if open_questions or open_prompts:
            missing = Asked(
                likelihoods=tuple(questions[key] for key in open_questions),
                answers=tuple(prompts[key] for key in open_prompts),
                max_tokens=asked.max_tokens,
            )
            for one, told in zip(scored, self._engine.ask(scored, missing), strict=True):
                self._likelihoods[one].update(zip(open_questions, told.likelihoods, strict=True))
                self._answers[one].update(zip(open_prompts, told.answers, strict=True))
        return [
            Told(
                tuple(self._likelihoods[one][_key(question)] for question in asked.likelihoods),
                tuple(self._answers[one][*_prompt(prompt), str(asked.max_tokens)] for prompt in asked.answers),
            )
            for one in scored
        ]


def _key(question: Question) -> _Key:
    return (*_prompt(question.prompt), question.answer, str(question.closed))


def _prompt(prompt: Prompt) -> _Key:
    spelled: Any = prompt
    return (json.dumps(spelled, sort_keys=True),)
