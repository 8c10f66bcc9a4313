"""The paper's recipe run as its reference code runs it: adapters on disk, the base loaded anew for every position.

Each position in turn: its adapter is moved on disk (12 reads, 5 writes), base and adapter are loaded, the search items are
answered ten at a time, and answers are compared. What the swarm does is decided by our own implementation of the paper; what
it costs is the reference's scheme. For the clock only.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

from bench.from_disk import FromDisk
from bench.reference_update import Weights, move_particle
from bench.search_cell import EXPERTS, PACK, accuracy, preset_search
from swarm_worker.hull import ExpertStack
from swarm_worker.search import Best, Coefficients, Move, Outcome
from swarm_worker.utilities import Item

ANY_WEIGHTS = Weights(inertia=0.2, cognitive=0.3, social=0.4, repel=0.1, step=1.0)


def run_from_disk(items: list[Item], seed: int, evaluations: int) -> tuple[Best, float]:
    """The best position, and the seconds that the search took."""
    optimizer = preset_search("paper", seed)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="shoal-from-disk-") as scratch:
        recipe = _Recipe(Path(scratch), items)
        while optimizer.should_stop is None:
            moves = optimizer.ask()
            if optimizer.evaluations + len(moves) > evaluations:
                break
            optimizer.tell([recipe.outcome(move) for move in moves])
        seconds = time.perf_counter() - began - recipe.not_theirs
    if optimizer.best is None:
        raise ValueError(f"no position could be scored: {optimizer.should_stop}")
    return optimizer.best, seconds


class _Recipe:
    """Where the particles lie on disk, and how one is scored. ``not_theirs``: seconds that only our imitation spends."""

    def __init__(self, scratch: Path, items: list[Item]) -> None:
        self.scratch, self.items = scratch, items
        self.not_theirs = 0.0
        self.utility = accuracy()
        self.asked = self.utility.asks(items)
        self.engine = FromDisk(PACK / "base")
        self.stack = ExpertStack.load(list(EXPERTS))
        self.swarm = scratch / "swarm"
        for role in ("global_best", "global_worst"):
            shutil.copytree(EXPERTS[0], self.swarm / role)

    def outcome(self, move: Move) -> Outcome:
        told = self.engine.ask(self._adapter(move.generation, move.particle, move.coefficients), self.asked)
        scores = [verdict.score or 0.0 for verdict in self.utility.judge(self.items, told, None)]
        return Outcome.of(move, sum(scores) / len(scores))

    def _adapter(self, generation: int, particle: int, coefficients: Coefficients) -> Path:
        """The particle's adapter, moved the reference's way; what is scored is the position that our swarm says."""
        home = self.scratch / f"particle-{particle}"
        if not home.exists():
            for role in ("now", "best", "velocity"):
                shutil.copytree(EXPERTS[particle % len(EXPERTS)], home / role)
        if generation:
            move_particle(home, self.swarm, ANY_WEIGHTS)
        scored = self.scratch / f"scored-{generation}-{particle}"
        began = time.perf_counter()
        self.stack.write(coefficients, scored, space="factors", dtype="float32")
        self.not_theirs += time.perf_counter() - began
        return scored
