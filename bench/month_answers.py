"""What a version answers: computed once, then remembered, so that several ways through the same weeks cost little."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.month_world import Request
from swarm_worker.scoring.engine import AdapterFolder, ScoringEngine, answers_of

MAX_TOKENS = 24


class Answers:
    """Greedy answers of PEFT folders on one engine. A folder's content must not change."""

    def __init__(self, engine: ScoringEngine) -> None:
        self.engine = engine
        self._known: dict[tuple[Path, str], str] = {}

    def of(self, folder: Path, requests: Sequence[Request]) -> list[str]:
        """One answer a request, in order."""
        unknown = {r.item.digest: r for r in requests if (folder, r.item.digest) not in self._known}
        if unknown:
            prompts = [request.messages for request in unknown.values()]
            told = answers_of(self.engine, AdapterFolder(folder), prompts, MAX_TOKENS)
            self._known |= {(folder, digest): answer for digest, answer in zip(unknown, told, strict=True)}
        return [self._known[folder, request.item.digest] for request in requests]
