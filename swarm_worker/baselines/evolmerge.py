"""EvolMerge (Akiba et al., arXiv:2403.13187): evolution of the parameters of a merge, here DARE-TIES as there."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from cmaes import CMA

from swarm_worker.baselines.contender import Single
from swarm_worker.baselines.dare_ties import merged
from swarm_worker.baselines.setting import Found, Setting
from swarm_worker.hull import ExpertStack
from swarm_worker.scoring.engine import AdapterFolder
from swarm_worker.update import Merge, write_merged

Vector = npt.NDArray[np.float64]
WEIGHT, DENSITY = (0.0, 1.5), (0.1, 1.0)  # bounds
SPREAD = 0.2  # the first standard deviation


def evolmerge(setting: Setting) -> Found:
    """CMA-ES over a weight and a density for each expert; the sum of what agrees in sign, so weights set the scale, too.

    It begins at the best of: each expert alone, and all with half a weight and density 0.7. The same entries are dropped for
    the same density throughout, so that equal parameters score the same. Spends whole generations within the budget.
    """
    setting.require(setting.n_experts + 1, "to score each expert and their merge")
    stack = setting.stack()
    scores: list[tuple[float, Vector]] = []
    starts = [_alone(expert, setting.n_experts) for expert in range(setting.n_experts)]
    starts.append(np.array([0.5] * setting.n_experts + [0.7] * setting.n_experts))
    with tempfile.TemporaryDirectory(dir=setting.scratch, prefix="evolmerge-") as scratch:

        def score(vectors: list[Vector]) -> None:
            folders = [Path(scratch) / str(len(scores) + i) for i in range(len(vectors))]
            utilities = [
                _utility(setting, stack, vector, folder) for vector, folder in zip(vectors, folders, strict=True)
            ]
            scores.extend(zip(utilities, vectors, strict=True))

        score(starts)
        evolution = _begin(max(scores, key=lambda scored: scored[0])[1], setting)
        while len(scores) + evolution.population_size <= setting.evaluations and not evolution.should_stop():
            generation = [evolution.ask() for _ in range(evolution.population_size)]
            score(generation)
            # The library minimises.
            evolution.tell([(vector, -utility) for utility, vector in scores[-len(generation) :]])
    utility, vector = max(scores, key=lambda scored: scored[0])
    folder = setting.folder("evolmerge")
    write_merged(stack, _merge(vector, setting), folder, max_rank=setting.max_rank)
    weights = ", ".join(f"{w:.2f} {name}" for name, w in zip(setting.names, vector[: setting.n_experts], strict=True))
    note = f"{weights}; {utility:.4f} on the search items"
    return Found(Single(AdapterFolder(folder)), len(scores) * len(setting.items), note)


def _utility(setting: Setting, stack: ExpertStack, vector: Vector, folder: Path) -> float:
    write_merged(stack, _merge(vector, setting), folder, max_rank=setting.max_rank)
    return setting.utilities([AdapterFolder(folder)])[0]


def _merge(vector: Vector, setting: Setting) -> Merge:
    weights, densities = vector[: setting.n_experts].tolist(), vector[setting.n_experts :].tolist()
    return merged(weights, densities, setting.seed)


def _alone(expert: int, n_experts: int) -> Vector:
    return np.array([float(i == expert) for i in range(n_experts)] + [1.0] * n_experts)


def _begin(mean: Vector, setting: Setting) -> CMA:
    bounds = np.array([WEIGHT] * setting.n_experts + [DENSITY] * setting.n_experts)
    return CMA(mean=mean, sigma=SPREAD, bounds=bounds, seed=setting.seed % 2**32)
