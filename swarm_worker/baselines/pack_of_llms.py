"""Pack of LLMs (Mavromatis et al., arXiv:2404.11531): whoever finds the prompt least perplexing counts most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from swarm_worker.baselines.contender import Shares
from swarm_worker.baselines.panel import Panel
from swarm_worker.baselines.setting import Found, Setting
from swarm_worker.scoring.engine import Asked, Prompt, Question, Scored, ScoringEngine

TEMPERATURES = (0.1, 0.01, 0.03, 0.3, 1.0)


def pack_of_llms(setting: Setting) -> Found:
    """The experts fused by prompt perplexity (the paper's PackLLM-sim); its temperature is chosen on the search items.

    The paper mixes next-token distributions; here whole answers are mixed with the same shares (see ``fuse``). Costs two
    evaluations an expert, the search items and their prompts, and as much again for every answer that it gives.
    """
    setting.require(2 * setting.n_experts, "to ask each expert about items and prompts")
    panel = Panel(setting)
    perplexities = _Perplexities(panel.members)
    best = panel.best([ByPerplexity(perplexities, temperature) for temperature in TEMPERATURES])
    weigh: ByPerplexity = best.weigh  # type: ignore[assignment]  # one of those just made
    note = (
        f"temperature {weigh.temperature:g}, {panel.utility(weigh):.4f} on the search items, at the cost of all experts"
    )
    return Found(best, 2 * panel.item_generations, note)


@dataclass(frozen=True)
class ByPerplexity:
    """softmax(-log perplexity / temperature) over the members, for each prompt."""

    perplexities: _Perplexities
    temperature: float

    def __call__(self, engine: ScoringEngine, prompts: Sequence[Prompt]) -> Shares:
        scores = self.perplexities(engine, prompts) / self.temperature
        shares: Shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        return shares / shares.sum(axis=1, keepdims=True)


class _Perplexities:
    """(prompts, members): the mean log-likelihood of a prompt's tokens. The last question is remembered, for several
    temperatures ask it."""

    def __init__(self, members: Sequence[Scored]) -> None:
        self._members = members
        self._known: tuple[list[Prompt], Shares] = ([], np.zeros((0, len(members))))

    def __call__(self, engine: ScoringEngine, prompts: Sequence[Prompt]) -> Shares:
        if list(prompts) != self._known[0]:
            self._known = (list(prompts), self._ask(engine, prompts))
        return self._known[1]

    def _ask(self, engine: ScoringEngine, prompts: Sequence[Prompt]) -> Shares:
        found = np.zeros((len(prompts), len(self._members)))  # equal, for a prompt of one word
        texts = {i: _parted(_text(prompt)) for i, prompt in enumerate(prompts)}
        asked = {i: Question(head, rest, closed=False) for i, (head, rest) in texts.items() if head.strip() and rest}
        for member, told in enumerate(engine.ask(self._members, Asked(likelihoods=tuple(asked.values())))):
            found[list(asked), member] = [likelihood.mean for likelihood in told.likelihoods]
        return found


def _text(prompt: Prompt) -> str:
    """What the user wrote, as plain text: a template's own tokens say nothing of who understands the prompt."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(str(message["content"]) for message in prompt if message.get("role") == "user")


def _parted(text: str) -> tuple[str, str]:
    """The first word, which has nothing before it to be predicted from, and the rest with its blank."""
    head, blank, rest = text.strip().partition(" ")
    return head, blank + rest
