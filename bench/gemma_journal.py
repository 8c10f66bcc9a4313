"""An engine that writes down what it was told, so that a study that takes an hour goes on where it was stopped."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from swarm_worker.hull import HullOptions
from swarm_worker.scoring.engine import Asked, Candidate, Likelihood, Prompt, Scored, ScoringEngine, Told


class Journal:
    """A ``ScoringEngine`` for likelihoods in front of another one, which is loaded when it is first needed.

    ``file``: a JSON line for each thing that was asked about each model. ``pool``: what the coefficients speak of; part of
    a line's key, as are the model and the questions. ``seconds``, ``cpu_seconds``: what all that was asked so far took when it
    was first asked, on the wall and of the processor: what is known already costs a contender what it cost the first.
    """

    identity = "journal"

    def __init__(self, load: Callable[[], ScoringEngine], file: Path, pool: str) -> None:
        self.seconds = self.cpu_seconds = 0.0
        self._load = load
        self._file = file
        self._pool = pool
        self._engine: ScoringEngine | None = None
        self._known: dict[str, dict[str, Any]] = {}
        for line in file.read_text().splitlines() if file.exists() else []:
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue  # the line at which it was stopped
            self._known[entry["key"]] = entry

    @property
    def context(self) -> int:
        return self.engine.context

    @property
    def engine(self) -> ScoringEngine:
        if self._engine is None:
            self._engine = self._load()
        return self._engine

    def set_experts(self, folders: Sequence[Path], options: HullOptions = HullOptions()) -> None:  # noqa: B008 - frozen
        raise ValueError("a journal's pool is fixed: its coefficients would mean something else from here on")

    def length(self, prompt: Prompt, answer: str) -> int:
        return self.engine.length(prompt, answer)

    def ask(self, scored: Sequence[Scored], asked: Asked) -> list[Told]:
        if asked.answers:
            raise ValueError("the journal keeps likelihoods only, not generated answers")
        return [self._ask(one, asked) for one in scored]

    def _ask(self, one: Scored, asked: Asked) -> Told:
        key = hashlib.sha256(json.dumps([self._pool, repr(_plain(one)), asked.likelihoods]).encode()).hexdigest()
        if key not in self._known:
            engine = self.engine
            begin, cpu = time.perf_counter(), time.process_time()
            told = engine.ask([one], asked)[0]
            self._write(key, time.perf_counter() - begin, time.process_time() - cpu, told)
        entry = self._known[key]
        self.seconds += entry["seconds"]
        self.cpu_seconds += entry["cpu_seconds"]
        return Told(tuple(Likelihood(total, n) for total, n in zip(entry["totals"], entry["tokens"], strict=True)))

    def _write(self, key: str, seconds: float, cpu_seconds: float, told: Told) -> None:
        entry = {
            "key": key,
            "seconds": round(seconds, 3),
            "cpu_seconds": round(cpu_seconds, 3),
            "totals": [likelihood.total for likelihood in told.likelihoods],
            "tokens": [likelihood.tokens for likelihood in told.likelihoods],
        }
        self._known[key] = entry
        with self._file.open("a") as file:
            file.write(json.dumps(entry) + "\n")


def _plain(one: Scored) -> Scored:
    """One expert alone is the same model in either space."""
    if isinstance(one, Candidate) and sorted(one.coefficients)[-1] == sum(map(abs, one.coefficients)) == 1:
        return Candidate(one.coefficients)
    return one
