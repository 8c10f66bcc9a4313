"""The bars of the hull: arithmetic of a generation, materialising it, and the memory that a pool of 7B size takes.

python -m bench.hull                 arithmetic and materialising
python -m bench.hull --quick         fewer repetitions
python -m bench.hull --large         and the pool of 7B size: 3.5 GB of scratch space, minutes
python -m bench.hull --full          what docs/results.md records: --large, more repetitions
python -m bench.hull --json FILE     and write everything down

``generation_ms``: median of asking 20 moves of Model Swarms over 10 experts and telling their outcomes, in
milliseconds; the utility itself is free.
``materialise_speedup``: see ``materialising.py``; on the starter pack's own experts. Beside it the same for adapters of a
270M model, and with --large of a 7B model. It falls with the size of an adapter: on small ones the reference code pays
for files, on large ones both ways wait for memory.
``peak_over_pool``: see ``pool_search.py``.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from bench.machine import headline, machine
from bench.materialising import time_materialising
from bench.random_pool import SHAPES, pool_bytes, write_pool
from swarm_worker import search

SEED = 0
EXPERTS, PARTICLES, RANK = 10, 20, 16
# As `peft` saves what it trains: float32 unless told otherwise; a large pool in bfloat16.
POOLS = (("gemma-3-270m", torch.float32), ("llama-2-7b", torch.bfloat16))
COLUMNS = ("pool", "adapter_mb", "reference_ms", "materialise_ms", "fresh_ms", "delta_ms", "speedup", "largest_error")
BARS = {
    "generation_ms": (1.0, "at most"),
    "materialise_speedup": (50.0, "at least"),
    "peak_over_pool": (3.0, "at most"),
}


def main(
    quick: Annotated[bool, typer.Option(help="Fewer repetitions, at most a minute.")] = False,
    large: Annotated[bool, typer.Option(help="Also search a pool of 7B size.")] = False,
    full: Annotated[bool, typer.Option(help="Everything, with more repetitions.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Measure, print a table, then the bars; exit code 1 where one is not met."""
    torch.set_num_threads(1)  # threads that wait for each other on shared cores measure the other tenants
    where = machine(("torch", "safetensors", "numpy"), seeds=[SEED])
    print(f"{headline(where)}; one thread", flush=True)
    rounds = 3 if quick else 20 if full else 10
    figures: dict[str, Any] = {"machine": where}
    figures |= time_generations(30 if quick else 200)
    report(figures, "generation_ms", "generations_timed")
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as scratch:
        print("".join(f"{key:>{14 if key == 'pool' else 20}}" for key in COLUMNS))
        figures["materialising"] = time_pools(Path(scratch), rounds, large or full)
    figures["materialise_speedup"] = figures["materialising"][0]["speedup"]
    if large or full:
        with tempfile.TemporaryDirectory(prefix="shoal-bench-") as scratch:
            figures |= search_large_pool(Path(scratch))
        report(figures, *(name for name in figures if name.startswith("large_")), "peak_over_pool")
    figures["bars"] = bars(figures)
    if json_file:
        json_file.write_text(json.dumps(figures, indent=2) + "\n")
    sys.exit(0 if all(bar["met"] for bar in figures["bars"].values()) else 1)


def time_generations(count: int) -> dict[str, Any]:
    """Median milliseconds of ``ask`` and ``tell`` together. The utility is a random number, drawn beforehand, and no search
    stops early: a new one begins where the last one ended."""
    utilities = np.random.default_rng(SEED).random((count, PARTICLES)).tolist()
    times: list[float] = []
    swarm, seed = _swarm(SEED), SEED
    for row in utilities:
        if swarm.should_stop is not None:
            seed += 1
            swarm = _swarm(seed)
        moves, asking = timed(swarm.ask)
        outcomes = [search.Outcome.of(move, utility) for move, utility in zip(moves, row, strict=True)]
        _, telling = timed(partial(swarm.tell, outcomes))
        times.append(asking + telling)
    return {"generation_ms": 1000 * statistics.median(times), "generations_timed": count}


def _swarm(seed: int) -> Any:
    return search.make("model_swarms", n_experts=EXPERTS, seed=seed, preset="paper", particles=PARTICLES)


def time_pools(scratch: Path, rounds: int, large: bool) -> list[dict[str, Any]]:
    """A row a pool: the starter pack's experts as they are, then random ones in the shape of real models."""
    pools = {"starter": sorted(path.parent for path in Path("starter/experts").glob("*/adapter_config.json"))}
    for name, dtype in POOLS[: 2 if large else 1]:
        pools[name] = write_pool(scratch / name, SHAPES[name], EXPERTS, RANK, dtype, SEED)
    rows = []
    for name, folders in pools.items():
        turns = 1 if name == "llama-2-7b" else rounds  # 3 GB a turn
        rows.append({"pool": name, **time_materialising(folders, scratch, turns, PARTICLES, SEED)})
        print("".join(f"{rows[-1][key]:>20.3f}" if key != "pool" else f"{name:>14}" for key in COLUMNS), flush=True)
    return rows


def search_large_pool(scratch: Path) -> dict[str, Any]:
    """A pool of 7B size, searched by a process of its own; its last line is what it measured."""
    folders = write_pool(scratch, SHAPES["llama-2-7b"], EXPERTS, RANK, torch.bfloat16, SEED)
    command = [sys.executable, "-m", "bench.pool_search", str(PARTICLES), *map(str, folders)]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    if child.returncode != 0:
        raise SystemExit(f"the search of the large pool failed:\n{child.stderr[-2000:]}")
    measured: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    pool_mb = pool_bytes(folders) / 1e6
    return {"large_pool_mb": pool_mb, **measured, "peak_over_pool": measured["large_peak_mb"] / pool_mb}


def bars(figures: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Each bar that was measured, printed as it goes into the JSON."""
    result = {}
    for name, (bar, kind) in BARS.items():
        if name in figures:
            met = figures[name] <= bar if kind == "at most" else figures[name] >= bar
            result[name] = {"value": figures[name], "bar": f"{kind} {bar:g}", "met": met}
            print(f"{name:<20} {figures[name]:>10.3f}   {kind} {bar:g}: {'met' if met else 'NOT MET'}")
        else:
            print(f"{name:<20} {'-':>10}   {kind} {bar:g}: not measured (--large)")
    return result


def report(figures: dict[str, Any], *names: str) -> None:
    for name in names:
        print(f"  {name:<24} {figures[name]:>12.4f}", flush=True)


def timed(act: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = act()
    return result, time.perf_counter() - start


if __name__ == "__main__":
    typer.run(main)
