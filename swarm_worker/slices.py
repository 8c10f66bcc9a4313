"""Score one slice: the work of a scoring worker, from claim to report.

A worker keeps the base model resident, and of the run at hand the experts, the items and the champion's likelihoods: a slice
then costs its scoring and nothing else.
"""

from __future__ import annotations

import functools
import logging
import os
import tempfile
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from registry import logs
from registry.errors import BadInput, RegistryDown
from registry.records import Run, Snapshot, SnapshotItem
from registry.registry import Registry
from registry.snapshots import read
from swarm_worker.confirm import confirm, rated
from swarm_worker.device import device_of
from swarm_worker.environment import here
from swarm_worker.growth import lessons
from swarm_worker.guards import score_guards
from swarm_worker.hold import Hold, Unwanted
from swarm_worker.materialise import materialise
from swarm_worker.scoring.engine import AdapterFolder, Candidate, Told, WatchedEngine
from swarm_worker.scoring.transformers import TransformersEngine
from swarm_worker.search import Move, Outcome
from swarm_worker.settings import WorkerSettings
from swarm_worker.trainer import train
from swarm_worker.utilities import UTILITIES, Item, measure, reference_of
from swarm_worker.watchdog import Watchdog

log = logging.getLogger("shoal.slices")
MOST_CLAIMS = 5
"""How often a slice is taken up before it counts as one that kills its workers, or that none can score."""
SCENES = 4
"""Of how many runs a worker remembers what their slices share."""
LOOK_SECONDS = 1.0
"""How long the engine goes on at least until it is asked again whether anybody wants what it is at: a pass may take a
millisecond, a question hours."""
GROWS_FOR = 0.5
"""Of the run's ``max_seconds``, the part that a training may take: the search needs the rest."""
STACKED = 64
"""Positions that a GPU scores side by side."""


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

    def __init__(
        self, registry: Registry, settings: WorkerSettings, engine: WatchedEngine, *, at_once: int = 1
    ) -> None:
        """``at_once``: how many positions the engine scores in one go; between two goes it is asked whether to go on."""
        self.registry = registry
        self.settings = settings
        self.engine = engine
        self.at_once = at_once
        self.watchdog = Watchdog(settings.stall_seconds)
        self._scenes: OrderedDict[str, Scene] = OrderedDict()  # the one that was entered last is the last

    def score(self, run_id: str, step: str, index: int, work: dict[str, Any]) -> int | None:
        """Claim, score, report: how many slices the step still misses, or None where there was nothing to do here."""
        runs = self.registry.runs
        if not runs.get(run_id).going:
            return None
        hold = Hold.take(runs, run_id, step, index, lease_seconds=self.settings.lease_seconds)
        if hold is None:
            return None
        began = time.monotonic()
        with hold.kept():
            report = self._report(hold, work)
            if report is None:
                return None
            report["seconds"] = round(time.monotonic() - began, 4)
            return hold.report(report, patience=self.settings.report_patience)

    def _report(self, hold: Hold, work: dict[str, Any]) -> dict[str, Any] | None:
        """What came of the slice; None where it was given up or put back.

        A position that has no score is an outcome, the same on every worker. What went wrong around it (a file that cannot be
        read, no memory) may go well elsewhere or later: the slice is put back, a few times, and then ends its run.
        """
        if hold.fence > MOST_CLAIMS:
            why = self.registry.runs.trouble(hold.run_id, hold.step, hold.index)
            return {"error": why or self._deadly()}
        try:
            with self._watched(hold):
                return self._done(hold, work)
        except Unwanted:
            return None
        except RegistryDown:
            raise  # nothing can be said either; the slice is sent again
        except (BadInput, ValueError) as error:
            return {"error": f"{type(error).__name__}: {error}"}  # of the run itself: no worker can do it
        except Exception as error:
            log.exception("slice %d of %s of run %s is put back", hold.index, hold.step, hold.run_id)
            hold.put_back(f"{type(error).__name__}: {error}")
            return None

    def _deadly(self) -> str:
        """What to do about a slice that nobody lived to report."""
        return (
            f"{MOST_CLAIMS} workers that were at it died, or were ended as stuck. Their logs say which: 'Timeout' and where "
            f"every thread stood is one that took no step for {self.settings.stall_seconds:.0f} s (more: SHOAL_STALL_SECONDS). "
            "No word at the end is most likely the machine's memory: a smaller base, fewer workers, more memory"
        )

    @contextmanager
    def _watched(self, hold: Hold) -> Iterator[None]:
        """Within, what the engine does is progress, and ends with ``Unwanted`` as soon as nobody wants it any more: a champion's
        answers to a thousand items are one question to it, and take as long as a generation."""
        every = min(LOOK_SECONDS, self.settings.stall_seconds / 4)
        looked = time.monotonic()

        def look() -> None:
            nonlocal looked
            if time.monotonic() - looked < every:
                return
            self.watchdog.progress()
            _wanted(hold)
            looked = time.monotonic()

        self.engine.on_pass = look
        try:
            yield
        finally:
            self.engine.on_pass = lambda: None

    def _done(self, hold: Hold, work: dict[str, Any]) -> dict[str, Any]:
        """``Unwanted`` as soon as nobody wants it any more."""
        if "grow" in work:
            return self._grow(hold)
        scene = self._enter(hold.run_id)
        if "moves" not in work:
            return self._confirm(scene, tuple(work["coefficients"]))
        outcomes = self._outcomes(hold, scene, [Move.from_json(move) for move in work["moves"]])
        return {"outcomes": [outcome.to_json() for outcome in outcomes]}

    def _grow(self, hold: Hold) -> dict[str, Any]:
        """Train the run's own expert. Of the snapshot its search half alone is handed on. ``ValueError`` where it would leave
        the search too little of the run's time."""
        run, began = self.registry.runs.get(hold.run_id), time.monotonic()
        most = None if run.spec.max_seconds is None else GROWS_FOR * run.spec.max_seconds

        def goes_on() -> bool:
            self.watchdog.progress()
            if most is not None and time.monotonic() - began > most:
                raise ValueError(
                    f"the training took more than {most:.3g} s, half of the run's max_seconds: fewer grow.steps, or more time"
                )
            return hold.goes_on()

        return train(self.registry, run, self._snapshot(run).search, self._usable, goes_on=goes_on)

    def _outcomes(self, hold: Hold, scene: Scene, moves: list[Move]) -> list[Outcome]:
        """Of each position, in order."""
        found: list[Outcome] = []
        for start in range(0, len(moves), self.at_once):
            _wanted(hold)
            self.watchdog.progress()
            found += self._scored(scene, moves[start : start + self.at_once])
        return found

    def _scored(self, scene: Scene, moves: list[Move]) -> list[Outcome]:
        utility = UTILITIES[scene.run.spec.utility]
        candidates = [Candidate(move.coefficients, scene.run.spec.space) for move in moves]
        try:
            scores = measure(utility, self.engine, candidates, scene.search, scene.reference)
        except ValueError as error:  # of the items or the positions: no worker can score them
            return [Outcome.of(move, None, f"{type(error).__name__}: {error}") for move in moves]
        return [Outcome.of(move, score.utility, score.error) for move, score in zip(moves, scores, strict=True)]

    def _confirm(self, scene: Scene, coefficients: tuple[float, ...]) -> dict[str, Any]:
        """Cut the finalist to what is served, store it, and score it and the champion on the items the search never saw, and on
        what it may not lose."""
        with tempfile.TemporaryDirectory(prefix="shoal-finalist-") as scratch:
            folder = Path(scratch) / "adapter"
            cut = materialise(
                scene.experts,
                coefficients,
                folder,
                space=scene.run.spec.space,
                max_rank=self.registry.settings.max_lora_rank,
            )
            self.watchdog.progress()
            artifact, _facts = self.registry.keep(folder)
        delivered = AdapterFolder(self._fetched(artifact.digest))
        result = confirm(
            self.engine, scene.champion, delivered, scene.confirm, max_tokens=self.settings.max_answer_tokens
        )
        guards = score_guards(self.engine, scene.champion, delivered, scene.run.guards, self.registry.suites.read)
        return result | {
            "guards": guards,
            "digest": artifact.digest,
            "size": artifact.size,
            "rank": cut.rank,
            "retained_energy": cut.retained_energy,
            "environment": here().model_dump(),
        }

    def _enter(self, run_id: str) -> Scene:
        """The scene of a run. The last few are kept: runs take turns, and a champion's likelihoods cost as much as a
        position's."""
        scene = self._scenes.pop(run_id, None) or self._made(self.registry.runs.get(run_id))
        self._scenes[run_id] = scene
        while len(self._scenes) > SCENES:
            self._scenes.popitem(last=False)
        self.engine.set_experts(scene.experts)
        return scene

    def _made(self, run: Run) -> Scene:
        snapshot = self._snapshot(run)
        if run.champion is None:
            raise BadInput(f"Run {run.id} has no champion.", field="run")
        # The confirmation reads the experts' files again: they stay in this machine's cache as long as the scene does.
        runs = [run, *(scene.run for scene in self._scenes.values())]
        self.registry.artifacts.keep({digest for each in runs for digest in _digests(each)})
        experts = [self._fetched(expert.digest) for expert in run.experts]
        self.engine.set_experts(experts)
        champion = AdapterFolder(self._fetched(run.champion.digest))
        lesson = lessons(self.registry, run)
        items = [rated(item) for item in snapshot.search if item.digest not in lesson and self._usable(item)]
        confirm_items = [item for item in snapshot.confirm if item.digest not in lesson and self._usable(item)]
        reference = reference_of(UTILITIES[run.spec.utility], self.engine, champion, items)
        return Scene(run, experts, items, confirm_items, champion, reference)

    def _fetched(self, digest: str) -> Path:
        self.watchdog.progress()
        return self.registry.artifacts.fetch(digest)

    def _snapshot(self, run: Run) -> Snapshot:
        if run.snapshot is None:
            raise BadInput(f"Run {run.id} has no snapshot.", field="run")
        return read(self.registry.artifacts.get_json, run.snapshot.digest)

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


def _wanted(hold: Hold) -> None:
    if not hold.goes_on():
        raise Unwanted(f"slice {hold.index} of {hold.step} of run {hold.run_id}")


def _digests(run: Run) -> set[str]:
    """The adapters that scoring a run reads."""
    return {expert.digest for expert in (*run.experts, *((run.champion,) if run.champion else ()))}


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
    device = device_of(settings.scoring_device)
    engine = TransformersEngine.load(registry.settings.base, device=device)
    logs.configure()  # again: what was imported only now has brought handlers of its own
    log.info("scoring on %s as %s", device, engine.identity)
    at_once = 1 if engine.mode == "merged" else settings.slice_size or STACKED
    return SliceScorer(registry, settings, engine, at_once=at_once)
