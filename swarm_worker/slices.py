"""Score one slice: the work of a scoring worker, from claim to report.

A worker keeps the base model resident, and of the run at hand the experts, the items and the champion's likelihoods: a slice
then costs its scoring and nothing else.
"""

from __future__ import annotations

import functools
import logging
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from registry import logs
from registry.errors import BadInput, RegistryDown, ShoalError
from registry.records import Run, Snapshot, SnapshotItem
from registry.registry import Registry
from swarm_worker.confirm import confirm, rated
from swarm_worker.environment import here
from swarm_worker.growth import lesson_of
from swarm_worker.materialise import materialise
from swarm_worker.scoring.engine import AdapterFolder, Candidate, ScoringEngine, Told
from swarm_worker.scoring.transformers import TransformersEngine
from swarm_worker.search import Move, Outcome
from swarm_worker.settings import WorkerSettings
from swarm_worker.trainer import train
from swarm_worker.utilities import UTILITIES, Item, measure, reference_of

log = logging.getLogger("shoal.slices")
MOST_CLAIMS = 5
"""How often a slice is taken up before it counts as one that kills its workers."""


@dataclass(frozen=True)
class Scene:
    """What a run's slices share: items, the champion that they are measured against, its likelihoods."""

    run: Run
    experts: list[Path]
    search: list[Item]
    confirm: list[SnapshotItem]
    champion: AdapterFolder
    reference: Told | None


class SliceScorer:
    """Scores slices on one engine, one at a time."""

    def __init__(self, registry: Registry, settings: WorkerSettings, engine: ScoringEngine) -> None:
        self.registry = registry
        self.settings = settings
        self.engine = engine
        self._scene: Scene | None = None

    def score(self, run_id: str, step: str, index: int, work: dict[str, Any]) -> int | None:
        """Claim, score, report: how many slices the step still misses, or None where there was nothing to do here."""
        runs = self.registry.runs
        if not runs.get(run_id).going:
            return None
        fence = runs.claim(run_id, step, index, lease_seconds=self.settings.lease_seconds)
        if fence is None:
            return None
        began = time.monotonic()
        with self._renewing(run_id, step, index):
            report = (
                self._work(run_id, work) if fence <= MOST_CLAIMS else _failed(work, "its workers died, again and again")
            )
        report["seconds"] = round(time.monotonic() - began, 4)
        return runs.report(run_id, step, index, fence, report)

    def _work(self, run_id: str, work: dict[str, Any]) -> dict[str, Any]:
        """Whatever goes wrong is reported: a slice that raised would be sent again for ever."""
        try:
            if "grow" in work:
                return self._grow(run_id)
            scene = self._enter(run_id)
            if "moves" not in work:
                return self._confirm(scene, tuple(work["coefficients"]))
            moves = [Move.from_json(move) for move in work["moves"]]
            return {"outcomes": [outcome.to_json() for outcome in self._outcomes(scene, moves)]}
        except RegistryDown:
            raise  # nothing could be reported either; the slice is sent again
        except Exception as error:
            log.exception("a slice of run %s failed", run_id)
            return _failed(work, f"{type(error).__name__}: {error}")

    def _grow(self, run_id: str) -> dict[str, Any]:
        """Train the run's own expert. Of the snapshot its search half alone is handed on."""
        run = self.registry.runs.get(run_id)
        return train(self.registry, run, self._snapshot(run).search, self._usable)

    def _outcomes(self, scene: Scene, moves: list[Move]) -> list[Outcome]:
        """All positions of the slice in one question to the engine."""
        utility = UTILITIES[scene.run.spec.utility]
        candidates = [Candidate(move.coefficients, scene.run.spec.space) for move in moves]
        scores = measure(utility, self.engine, candidates, scene.search, scene.reference)
        return [Outcome.of(move, score.utility, score.error) for move, score in zip(moves, scores, strict=True)]

    def _confirm(self, scene: Scene, coefficients: tuple[float, ...]) -> dict[str, Any]:
        """Cut the finalist to what is served, store it, and score it and the champion on the items the search never saw."""
        with tempfile.TemporaryDirectory(prefix="shoal-finalist-") as scratch:
            folder = Path(scratch) / "adapter"
            cut = materialise(
                scene.experts,
                coefficients,
                folder,
                space=scene.run.spec.space,
                max_rank=self.registry.settings.max_lora_rank,
            )
            artifact, _facts = self.registry.keep(folder)
        delivered = AdapterFolder(self.registry.artifacts.fetch(artifact.digest))
        result = confirm(
            self.engine, scene.champion, delivered, scene.confirm, max_tokens=self.settings.max_answer_tokens
        )
        return result | {
            "digest": artifact.digest,
            "size": artifact.size,
            "rank": cut.rank,
            "retained_energy": cut.retained_energy,
            "environment": here().model_dump(),
        }

    def _enter(self, run_id: str) -> Scene:
        """The scene of a run; entering the same one again costs nothing."""
        if self._scene is None or self._scene.run.id != run_id:
            run = self.registry.runs.get(run_id)
            snapshot = self._snapshot(run)
            if run.champion is None:
                raise BadInput(f"Run {run_id} has no champion.", field="run")
            # The confirmation reads the experts' files again: they stay in this machine's cache as long as the scene does.
            self.registry.artifacts.keep({run.champion.digest, *(expert.digest for expert in run.experts)})
            experts = [self.registry.artifacts.fetch(expert.digest) for expert in run.experts]
            self._scene = (
                None  # from here on the engine holds this run's experts: the last run's scene is no longer true
            )
            self.engine.set_experts(experts)
            champion = AdapterFolder(self.registry.artifacts.fetch(run.champion.digest))
            lesson = lesson_of(run, snapshot.search)
            items = [rated(item) for item in snapshot.search if item.digest not in lesson and self._usable(item)]
            confirm_items = [item for item in snapshot.confirm if self._usable(item)]
            reference = reference_of(UTILITIES[run.spec.utility], self.engine, champion, items)
            self._scene = Scene(run, experts, items, confirm_items, champion, reference)
        return self._scene

    def _snapshot(self, run: Run) -> Snapshot:
        if run.snapshot is None:
            raise BadInput(f"Run {run.id} has no snapshot.", field="run")
        return Snapshot.model_validate(self.registry.artifacts.get_json(run.snapshot.digest))

    def _usable(self, item: SnapshotItem) -> bool:
        """Whether the base can read the item at all: its template takes the messages, and its context holds them."""
        try:
            for answer in (item.good, item.bad):
                if answer is not None:
                    tokens = self.engine.length(rated(item).question, answer)
                    if tokens + self.settings.max_answer_tokens > self.engine.context:
                        return False
        except Exception as error:
            log.info("item %s is left out: %s", item.digest, error)
            return False
        return True

    @contextmanager
    def _renewing(self, run_id: str, step: str, index: int) -> Iterator[None]:
        """Keep the slice's lease while it is being scored: only a dead worker's slice is taken over."""
        done = threading.Event()

        def renew() -> None:
            while not done.wait(self.settings.lease_seconds / 3):
                try:
                    self.registry.runs.renew(run_id, step, index, lease_seconds=self.settings.lease_seconds)
                except ShoalError:
                    continue  # Redis is away for a moment; if it stays away the slice is taken over, as it should be

        thread = threading.Thread(target=renew, name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def _failed(work: dict[str, Any], why: str) -> dict[str, Any]:
    """The report of a slice that could not be scored."""
    if "moves" not in work:
        return {"error": why}
    return {"outcomes": [Outcome.of(Move.from_json(move), None, why).to_json() for move in work["moves"]]}


@functools.cache
def scorer(registry: Registry, settings: WorkerSettings) -> SliceScorer:
    """The process's one scorer; loads the base model at the first call."""
    # The engine that answers users has the other half. More threads than free cores are worse than one: each step waits for
    # the slowest of them, and a slice took a thousand times as long.
    torch.set_num_threads(settings.scoring_threads or max(1, (os.cpu_count() or 2) // 2))
    if registry.settings.base is None:
        raise BadInput(
            "SHOAL_BASE names no base model: a scoring worker needs the one that the service serves.", field="base"
        )
    engine = TransformersEngine.load(registry.settings.base)
    logs.configure()  # again: what was imported only now has brought handlers of its own
    return SliceScorer(registry, settings, engine)
