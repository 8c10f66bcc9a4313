"""Whole runs with nothing to find: users who rate by the toss of a coin, whatever answers them.

Everything is real but the model: answers pass the service, ratings its API; a run freezes the snapshot, searches (CMA-ES over
four experts), cuts and registers its finalist, passes it through the gate, and what passes goes on trial
before the same users. A real run on the starter pack takes minutes of CPU, so the model is one of a few hundred numbers that
says true or false: how likely it finds either is a smooth function of its weights, drawn anew for every question. So a search
can climb, and finds positions that fit the coins of its half; what they say of the other half is chance. In every second run
who rates an answer down says the other one: then the gate compares exact answers, and a change is as often right as wrong. Else
there are thumbs alone. Each run has an adapter of its own and is its gate's first look, which may spend most.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file

from bench.trial_stage import Stage, Way, stage
from registry.adaptation import begin
from registry.canary_policy import CanaryPolicy
from registry.policy import Policy
from registry.records import Run, RunSpec
from registry.settings import RegistrySettings
from swarm_worker.hull_options import HullOptions
from swarm_worker.run import RunDriver
from swarm_worker.scoring.engine import AdapterFolder, Asked, Candidate, Likelihood, Prompt, Scored, Told
from swarm_worker.settings import WorkerSettings
from swarm_worker.slices import SliceScorer
from tests.peft_folders import write_adapter

EXPERTS = 4
ANSWERS = ("true", "false")
RATE = 0.5
_SPREAD = 4.0  # the standard deviation of an entry of B A times its scale, for the experts that are made here
Floats = NDArray[np.float64]
Figures = dict[str, Any]


class Linear:
    """A scoring engine over the adapters' own weights: ``log p(answer | question) = -3 + 2 tanh(w . dW)``, where ``w`` is drawn
    from a hash of question and answer. It says what it finds likelier."""

    identity = "linear"
    context = 10_000

    def __init__(self) -> None:
        self._experts: list[Floats] = []
        self.on_pass: Callable[[], None] = lambda: None

    def set_experts(self, folders: Sequence[Path], options: HullOptions = HullOptions()) -> None:  # noqa: B008  # frozen
        self._experts = [_update(folder) for folder in folders]

    def length(self, prompt: Prompt, answer: str) -> int:
        return 2

    def ask(self, scored: Sequence[Scored], asked: Asked) -> list[Told]:
        self.on_pass()
        return [self._told(self._weights(one), asked) for one in scored]

    def _weights(self, scored: Scored) -> Floats:
        if isinstance(scored, Candidate):
            return sum((c * expert for c, expert in zip(scored.coefficients, self._experts, strict=True)), start=0.0)
        return _update(scored.folder) if isinstance(scored, AdapterFolder) else np.zeros_like(self._experts[0])

    @staticmethod
    def _told(weights: Floats, asked: Asked) -> Told:
        likely = [Likelihood(_log(weights, str(q.prompt), q.answer), 1) for q in asked.likelihoods]
        return Told(tuple(likely), tuple(_choice(weights, str(prompt)) for prompt in asked.answers))


def _log(weights: Floats, prompt: str, answer: str) -> float:
    return -3 + 2 * float(np.tanh(_direction(prompt, answer, weights.size) @ weights))


def _choice(weights: Floats, prompt: str) -> str:
    return max(ANSWERS, key=lambda answer: _log(weights, prompt, answer))


def _other(answer: str) -> str:
    return next(one for one in ANSWERS if one != answer)


@dataclass(frozen=True, slots=True)
class Size:
    """How large a run is: answers that are rated before it, generations of its search."""

    asked: int
    generations: int


@functools.lru_cache(maxsize=256)
def _update(folder: Path) -> Floats:
    """dW of every module, in one vector."""
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = {
        name: tensor.double().numpy() for name, tensor in load_file(folder / "adapter_model.safetensors").items()
    }
    names = sorted(name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight"))
    parts = [tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"] for name in names]
    return np.concatenate([part.ravel() for part in parts]) * (config["lora_alpha"] / config["r"])


@functools.lru_cache(maxsize=4096)
def _direction(prompt: str, answer: str, size: int) -> Floats:
    seed = int.from_bytes(hashlib.sha256(f"{prompt}\0{answer}".encode()).digest()[:8], "big")
    return np.random.default_rng(seed).normal(size=size) / (_SPREAD * size**0.5)


async def nothing_to_find(
    settings: RegistrySettings, home: Path, *, runs: int, size: Size, seed: int, policy: CanaryPolicy
) -> Figures:
    """So many whole runs, and how many of them promoted."""
    folders = [write_adapter(home / "made" / str(number), seed=number) for number in range(EXPERTS)]
    ended: list[Run] = []
    async with stage(settings, home / "service", folders, policy, seed) as trials:
        for number in range(runs):
            run = await _one(trials, folders, size, policy, number)
            ended.append(run)
            print(f"run {number + 1}: {run.status}. {run.outcome}", flush=True)
    tried = [run for run in ended if run.decision and run.decision["passed"]]
    return {
        "null_runs": len(ended),
        "false_promotions": sum(run.promoted for run in ended),
        "passed_the_gate": len(tried),
        "failed": sum(run.status == "failed" for run in ended),
        "gate_measures": sorted({run.decision["measure"] for run in ended if run.decision}),
        "policy": policy.model_dump(mode="json"),
    }


async def _one(trials: Stage, folders: list[Path], size: Size, policy: CanaryPolicy, number: int) -> Run:
    registry, adapter = trials.registry, f"null-{number}"
    trials.adapter = adapter
    for folder in folders:
        registry.register(adapter, folder, by="bench")
    registry.promote(adapter, 1, by="bench")
    registry.set_policy(adapter, Policy(canary=policy), by="bench")
    champion = _update(registry.artifacts.fetch(registry.version(adapter, 1).digest))
    coin = Way(RATE, says=functools.partial(_choice, champion), corrected=_other if number % 2 else None)
    trials.ways |= {f"{adapter}@{version}": coin for version in range(1, EXPERTS + 2)}
    await trials.followed()
    await trials.rated(size.asked)
    spec = RunSpec(adapter=adapter, seed=number, max_generations=size.generations)
    run = await asyncio.to_thread(lambda: begin(registry, spec, by="bench"))
    await asyncio.to_thread(_search, trials, run)
    run = await trials.moved_on(registry.runs.get(run.id))
    while run.going:
        await trials.look()
        run = registry.runs.get(run.id)
    return run


def _search(trials: Stage, run: Run) -> None:
    """Work the run's slices until none is left: what a worker does, without the broker between."""
    queue: list[dict[str, Any]] = []
    settings = WorkerSettings()
    driver = RunDriver(trials.registry, settings, queue.append, lambda run_id, seconds: None)
    scorer = SliceScorer(trials.registry, settings, Linear(), at_once=64)
    driver.advance(run.id)
    while queue:
        message = queue.pop(0)
        missing = scorer.score(message["run"], message["step"], message["index"], message["work"])
        if missing == 0:
            driver.advance(run.id)
        elif missing is not None:
            driver.send_due(run.id, message["step"])
        elif trials.registry.runs.get(run.id).going:
            raise SystemExit(f"A slice of {message['step']} was not scored.")
