"""Search a pool of adapters in this process, and say how much memory that took. A part of ``bench/hull.py``.

Model Swarms, three generations, factors space, a scorer of constant cost: the mean square of a position's factors, module
by module, for all positions in one pass.

``large_peak_mb`` is the highest resident set of the process from just before loading to the end (VmHWM, reset through
/proc/self/clear_refs), minus the resident set just before loading, when everything is imported. It counts pages of
the adapter files while they are mapped, although the kernel could drop them: one expert's file at a time.
``large_anonymous_mb`` is what remains afterwards without file pages: the stack, and what the allocator keeps.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

import numpy as np
import torch

from swarm_worker import search
from swarm_worker.hull import ExpertStack

GENERATIONS = 3


def main(particles: int, folders: list[Path]) -> None:
    torch.set_num_threads(1)
    torch.ones(8, 8) @ torch.ones(8, 8)  # the matrix library's own buffers are no memory of the pool
    Path("/proc/self/clear_refs").write_text("5")
    before = memory_mb()
    start = time.perf_counter()
    stack = ExpertStack.load(folders)
    loaded = time.perf_counter()
    swarm = search.make(
        "model_swarms",
        n_experts=stack.n_experts,
        seed=0,
        preset="paper",
        particles=particles,
        max_generations=GENERATIONS - 1,  # beside generation 0
    )
    generations = 0
    while swarm.should_stop is None:
        moves = swarm.ask()
        utilities = score(stack, [move.coefficients for move in moves])
        swarm.tell([search.Outcome.of(move, utility) for move, utility in zip(moves, utilities, strict=True)])
        generations += 1
    after = memory_mb()
    measured = {
        "large_peak_mb": after["VmHWM"] - before["VmRSS"],
        "large_anonymous_mb": after["RssAnon"] - before["RssAnon"],
        "large_load_s": loaded - start,
        "large_search_s": time.perf_counter() - loaded,
        "large_generations": generations,
    }
    print(json.dumps(measured))


def score(stack: ExpertStack, positions: list[tuple[float, ...]]) -> list[float]:
    """Minus the mean square of all factors at each position: every number of every position is computed."""
    squares, count = torch.zeros(len(positions)), 0
    for _, mixed in stack.generation(np.array(positions), "factors"):
        for factor in (mixed.a, mixed.b):
            squares += factor.square().sum(dim=(1, 2))
            count += factor[0].numel()
    return (-squares / count).tolist()


def memory_mb() -> dict[str, float]:
    status = Path("/proc/self/status").read_text()
    return {name: int(kb) * 1024 / 1e6 for name, kb in re.findall(r"^(VmHWM|VmRSS|RssAnon):\s+(\d+) kB", status, re.M)}


if __name__ == "__main__":
    main(int(sys.argv[1]), [Path(folder) for folder in sys.argv[2:]])
