"""A control that changes only the prompt: the best expert with a few search items as examples.

Part of what a search gains is format. This is what format alone brings.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from swarm_worker.baselines.contender import Single
from swarm_worker.baselines.setting import Found, Setting
from swarm_worker.scoring.engine import Asked, Prompt, Question, Scored, ScoringEngine, Told
from swarm_worker.search.optimizer import UTILITY_DECIMALS
from swarm_worker.utilities import Item, Utility
from swarm_worker.utilities.right_answer import right_answer, with_right_answer

SHOTS = (1, 2, 4, 8)
DRAWS = 2  # of each number of examples


@dataclass(frozen=True)
class FewShot:
    """One model that is shown ``shots`` before each question, but never an answer to that same prompt; the last ones are left
    out where they do not fit the context.

    A shot is a prompt and its right answer as the utility asks it (``right_answer``), so that a shot of an item has the very
    prompt that the item is asked with, and is known by it.
    """

    scored: Scored
    shots: tuple[Question, ...]

    @classmethod
    def of(cls, scored: Scored, utility: Utility, items: Sequence[Item]) -> Self:
        """``items`` as examples for who is asked by ``utility``."""
        return cls(scored, tuple(right_answer(utility, item) for item in items))

    def told(self, engine: ScoringEngine, asked: Asked) -> Told:
        likelihoods = tuple(
            Question(self._prompt(engine, question.prompt, question.answer, 0), question.answer, question.closed)
            for question in asked.likelihoods
        )
        answers = tuple(self._prompt(engine, prompt, "", asked.max_tokens) for prompt in asked.answers)
        return engine.ask([self.scored], Asked(likelihoods, answers, asked.max_tokens))[0]

    def _prompt(self, engine: ScoringEngine, prompt: Prompt, answer: str, room: int) -> Prompt:
        shots = [shot for shot in self.shots if shot.prompt != prompt and isinstance(shot.prompt, type(prompt))]
        shown = with_examples(prompt, shots)
        while shots and engine.length(shown, answer) + room > engine.context:
            shots.pop()
            shown = with_examples(prompt, shots)
        return shown


def with_examples(prompt: Prompt, shots: Sequence[Question]) -> Prompt:
    """Earlier turns of the chat, after its system message; paragraphs of a plain prompt."""
    if isinstance(prompt, str):
        return "".join(f"{shot.prompt}{shot.answer}\n\n" for shot in shots) + prompt
    turns: list[dict[str, Any]] = []
    for shot in shots:
        messages = [] if isinstance(shot.prompt, str) else shot.prompt
        turns += [*_without_system(messages), {"role": "assistant", "content": shot.answer}]
    system = [message for message in prompt if message.get("role") == "system"]
    return [*system, *turns, *_without_system(prompt)]


def _without_system(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [message for message in messages if message.get("role") != "system"]


def format_fix(setting: Setting) -> Found:
    """How many examples and which, none among them, is chosen on the search items. Costs an evaluation an expert and one a
    choice, as many (up to eight) as the budget covers; a longer prompt counts as much as a short one. Raises ``ValueError``
    where no search item has a right answer to show."""
    score = setting.scorer.utility
    wanted = setting.utility or score
    examples = _examples(setting.items, (score, wanted))
    (best, utility), *_ = setting.ranking()
    model, spent = setting.expert(best), setting.n_experts
    found: tuple[Item, ...] = ()
    for draw in range(DRAWS):
        for shots in SHOTS:
            if spent >= setting.evaluations or shots > len(examples):
                continue
            drawn = tuple(random.Random(f"{setting.seed}/{draw}/{shots}").sample(examples, shots))
            told = FewShot.of(model, score, drawn).told(setting.scorer.engine, score.asks(setting.items))
            shown = round(setting.scorer.judged(told).utility, UTILITY_DECIMALS)
            spent += 1
            if shown > utility:
                found, utility = drawn, shown
    # Whoever is asked for a letter must be shown letters, whatever the search climbs on.
    contender = FewShot.of(model, wanted, found) if found else Single(model)
    note = f"{setting.names[best]} with {len(found)} examples, {utility:.4f} on the search items"
    return Found(contender, spent * len(setting.items), note)


def _examples(items: list[Item], utilities: Sequence[Utility]) -> list[Item]:
    """Those that every one of ``utilities`` can show the right answer of."""
    examples = items
    for utility in utilities:
        known, reason = with_right_answer(utility, examples)
        if not known:
            raise ValueError(f"format_fix needs a search item with a good answer: {reason}")
        examples = [examples[number] for number in known]
    return examples
