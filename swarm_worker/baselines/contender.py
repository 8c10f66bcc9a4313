"""Who is compared: one model, or several that answer together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from swarm_worker.scoring.engine import Asked, Likelihood, Prompt, Scored, ScoringEngine, Told

Shares = npt.NDArray[np.float64]
"""(prompts, members): how much each member counts for each prompt; rows sum to 1."""


class Contender(Protocol):
    """Whoever can be asked what a model can be asked."""

    def told(self, engine: ScoringEngine, asked: Asked) -> Told: ...


@dataclass(frozen=True)
class Single:
    """One model."""

    scored: Scored

    def told(self, engine: ScoringEngine, asked: Asked) -> Told:
        return engine.ask([self.scored], asked)[0]


class Weigh(Protocol):
    """How much each member of an ensemble counts for each prompt."""

    def __call__(self, engine: ScoringEngine, prompts: Sequence[Prompt]) -> Shares: ...


@dataclass(frozen=True)
class Equal:
    """Every member as much as any other."""

    members: int

    def __call__(self, engine: ScoringEngine, prompts: Sequence[Prompt]) -> Shares:
        return np.full((len(prompts), self.members), 1.0 / self.members)


@dataclass(frozen=True)
class Ensemble:
    """Several models that answer together; whatever is asked of it is asked of each. See ``fuse``."""

    members: tuple[Scored, ...]
    weigh: Weigh

    def told(self, engine: ScoringEngine, asked: Asked) -> Told:
        return fuse(asked, engine.ask(self.members, asked), shares_of(self.weigh, engine, asked))


SharesOf = dict[str, npt.NDArray[np.float64]]


def shares_of(weigh: Weigh, engine: ScoringEngine, asked: Asked) -> SharesOf:
    """The members' shares for each prompt that is asked about."""
    prompts = {_key(prompt): prompt for prompt in [*(q.prompt for q in asked.likelihoods), *asked.answers]}
    return dict(zip(prompts, weigh(engine, list(prompts.values())), strict=True)) if prompts else {}


def fuse(asked: Asked, tolds: Sequence[Told], shares: SharesOf) -> Told:
    """What an ensemble says, from what each of its members was told.

    An answer's likelihood is the mixture's, ``sum_k share_k * p_k(answer)``. The answer is the one with the largest share
    behind it, blanks aside; of equals that of the first member. Members' answers are counted, never whether they are right:
    the paper's reference votes on correctness, which only knows who knows the truth.
    """
    likelihoods = []
    with np.errstate(divide="ignore"):  # a share of 0 is a logarithm of -inf, and adds nothing
        for i, question in enumerate(asked.likelihoods):
            said = [told.likelihoods[i] for told in tolds]
            total = np.logaddexp.reduce(np.log(shares[_key(question.prompt)]) + [one.total for one in said])
            likelihoods.append(Likelihood(float(total), said[0].tokens))
    answers = [
        _vote([told.answers[i] for told in tolds], shares[_key(prompt)]) for i, prompt in enumerate(asked.answers)
    ]
    return Told(tuple(likelihoods), tuple(answers))


def _vote(answers: Sequence[str], shares: npt.NDArray[np.float64]) -> str:
    behind: dict[str, float] = {}
    for answer, share in zip(answers, shares, strict=True):
        plain = " ".join(answer.split())
        behind[plain] = behind.get(plain, 0.0) + float(share)
    # Rounded: equal shares must not be told apart by the order in which they were added.
    winner = max(behind, key=lambda plain: round(behind[plain], 9))
    return next(answer for answer in answers if " ".join(answer.split()) == winner)


def _key(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True)
