"""An engine without a model, for the tests of what searches do around one: its likelihoods are arithmetic."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path

from registry.artifacts import digest_of_folder
from swarm_worker.hull_options import HullOptions
from swarm_worker.scoring.engine import AdapterFolder, Asked, Candidate, Likelihood, Prompt, Scored, Told

BEST = (0.8, 0.4, -0.1)
NO_OPTIONS = HullOptions()


class ToyEngine:
    """An item is easier or harder for everybody, and a position is better the nearer it is to ``BEST``. ``noise``: how
    differently positions find one item. It says "yes" where "yes" is likelier than not. ``dies_after``: questions until it
    raises ``KeyboardInterrupt``, as Ctrl-C does in the middle of scoring."""

    identity = "toy"
    context = 100

    def __init__(self, noise: float = 0.0, dies_after: int | None = None) -> None:
        self.noise = noise
        self.dies_after = dies_after

    def set_experts(self, folders: Sequence[Path], options: HullOptions = NO_OPTIONS) -> None:
        """There are none."""

    def length(self, prompt: Prompt, answer: str) -> int:
        return 1

    def ask(self, scored: Sequence[Scored], asked: Asked) -> list[Told]:
        if self.dies_after is not None:
            self.dies_after -= 1
            if self.dies_after < 0:
                raise KeyboardInterrupt
        return [self._told(one, asked) for one in scored]

    def _told(self, scored: Scored, asked: Asked) -> Told:
        likely = [Likelihood(math.log(self.probability(scored, str(q.prompt))), 1) for q in asked.likelihoods]
        answers = ["yes" if self.probability(scored, str(prompt)) > 0.5 else "no" for prompt in asked.answers]
        return Told(tuple(likely), tuple(answers))

    def probability(self, scored: Scored, prompt: str) -> float:
        """Of the answer "yes"."""
        if isinstance(scored, Candidate):
            away = sum((c - b) ** 2 for c, b in zip(scored.coefficients, BEST, strict=True))
            who: tuple[object, ...] = scored.coefficients
        else:
            who = (digest_of_folder(scored.folder),) if isinstance(scored, AdapterFolder) else ()
            away = 0.5 + uniform(*who)
        noise = self.noise * (uniform(prompt, *who) - 0.5)
        return 0.4 * math.exp(-away) + 0.3 + 0.2 * uniform(prompt) + noise


def uniform(*what: object) -> float:
    """A number in [0, 1) that looks random and is always the same."""
    return int(hashlib.sha256(json.dumps(what).encode()).hexdigest()[:8], 16) / 2**32
