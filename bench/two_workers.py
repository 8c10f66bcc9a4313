"""Two scoring workers against one, each bound to a core of its own."""

from __future__ import annotations

import os
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.story import QUICK, Story, everybody
from shoal.client import Client
from shoal.ports import free_port
from shoal.processes import ProcessSpec, processes
from shoal.settings import UpSettings
from shoal.up import Up

ITEMS = 200


def two_worker_ratio(home: Path, *, rounds: int, generations: int = 10) -> dict[str, Any]:
    """``two_worker_ratio``: a run's scoring time, from its first search state to its last, with two workers over with one.

    One Shoal for each, one after the other in every round, the same run on both; everything but the scoring workers shares
    the last core, where it has next to nothing to do.
    """
    os.environ["SHOAL_SCORING_THREADS"] = "1"
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("two workers with a core each need two cores")
    took: dict[int, list[float]] = {1: [], 2: []}
    for number in range(rounds):
        for workers in (1, 2) if number % 2 == 0 else (2, 1):
            seconds = _searched(home / f"{number}-{workers}", cores[:workers], cores[-1], generations)
            took[workers].append(seconds)
            print(f"{workers} scoring worker{'s' * (workers > 1)}: {seconds:.2f} s", flush=True)
    ratio = statistics.median(took[2]) / statistics.median(took[1])
    return {
        "two_worker_ratio": round(ratio, 3),
        "one_worker_s": took[1],
        "two_workers_s": took[2],
        "met": ratio <= 0.6,
    }


def _searched(home: Path, cores: list[int], other: int, generations: int) -> float:
    """Seconds of searching of one run on a Shoal with a scoring worker on each of ``cores``."""

    def table(settings: UpSettings) -> list[ProcessSpec]:
        found = []
        for spec in processes(settings):
            if spec.name != "score":
                found.append(replace(spec, command=("taskset", "-c", str(other), *spec.command)))
            for core in cores if spec.name == "score" else []:
                command = tuple(f"score{core}@%h" if part == "score@%h" else part for part in spec.command)
                found.append(replace(spec, name=f"score-{core}", command=("taskset", "-c", str(core), *command)))
        return found

    settings = UpSettings.load(home=home, port=free_port(), import_starter=False)
    with Up(settings, table=table) as up, Client(up.url) as client:
        up.wait_ready(300)
        everybody(client, score=len(cores))
        first = Story(client, "warm", QUICK)  # the workers have their base and experts when the clock starts
        first.watch()
        story = Story(
            client, "timed", replace(QUICK, feedback=500, search_items=ITEMS, budget=generations * 10 * ITEMS)
        )
        story.watch()
    return story.times["confirming"] - story.times["searching"]
