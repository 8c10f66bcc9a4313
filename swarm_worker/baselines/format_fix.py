"""A control that changes only the prompt: the best expert with a few search items as examples.

Part of what a search gains is format. This is what format alone brings.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from swarm_worker.baselines.contender import Single
from swarm_worker.baselines.setting import Found, Setting
from swarm_worker.scoring.engine import Asked, Prompt, Question, Scored, ScoringEngine, Told
from swarm_worker.search.optimizer import UTILITY_DECIMALS
from swarm_worker.utilities import Item

SHOTS = (1, 2, 4, 8)
DRAWS = 2  # of each number of examples


@dataclass(frozen=True)
class FewShot:
    """One model that is shown ``shots`` before each question, but never the question's own answer; the last ones are left
    out where they do not fit the context."""

    scored: Scored
    shots: tuple[Item, ...]

    def told(self, engine: ScoringEngine, asked: Asked) -> Told:
        likelihoods = tuple(
            Question(self._prompt(engine, question.prompt, question.answer, 0), question.answer, question.closed)
            for question in asked.likelihoods
        )
        answers = tuple(self._prompt(engine, prompt, "", asked.max_tokens) for prompt in asked.answers)
        return engine.ask([self.scored], Asked(likelihoods, answers, asked.max_tokens))[0]

    def _prompt(self, engine: ScoringEngine, prompt: Prompt, answer: str, room: int) -> Prompt:
        shots = [shot for shot in self.shots if shot.question != prompt and isinstance(shot.question, type(prompt))]
        shown = with_examples(prompt, shots)
        while shots and engine.length(shown, answer) + room > engine.context:
            shots.pop()
            shown = with_examples(prompt, shots)
        return shown


def with_examples(prompt: Prompt, shots: list[Item]) -> Prompt:
    """Earlier turns of the chat, after its system message; paragraphs of a plain prompt."""
    if isinstance(prompt, str):
        return "".join(f"{shot.prompt}{shot.right}\n\n" for shot in shots) + prompt
    turns: list[dict[str, Any]] = []
    for shot in shots:
        turns += [*_without_system(shot.messages or []), {"role": "assistant", "content": shot.right}]
    system = [message for message in prompt if message.get("role") == "system"]
    return [*system, *turns, *_without_system(prompt)]


def _without_system(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [message for message in messages if message.get("role") != "system"]


def format_fix(setting: Setting) -> Found:
    """How many examples and which, none among them, is chosen on the search items. Costs an evaluation an expert and one a
    choice, as many (up to eight) as the budget covers; a longer prompt counts as much as a short one."""
    (best, utility), *_ = setting.ranking()
    examples = [item for item in setting.items if item.good is not None]
    model, spent = setting.expert(best), setting.n_experts
    found: tuple[Item, ...] = ()
    for draw in range(DRAWS):
        for shots in SHOTS:
            if spent >= setting.evaluations or shots > len(examples):
                continue
            drawn = tuple(random.Random(f"{setting.seed}/{draw}/{shots}").sample(examples, shots))
            told = FewShot(model, drawn).told(setting.scorer.engine, setting.scorer.utility.asks(setting.items))
            score = round(setting.scorer.judged(told).utility, UTILITY_DECIMALS)
            spent += 1
            if score > utility:
                found, utility = drawn, score
    contender = FewShot(model, found) if found else Single(model)
    note = f"{setting.names[best]} with {len(found)} examples, {utility:.4f} on the search items"
    return Found(contender, spent * len(setting.items), note)
