"""Two scoring workers against one, each bound to a core of its own."""

from __future__ import annotations

import os
import secrets
import signal
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.story import QUICK, Story, everybody
from shoal.child import Child
from shoal.client import Client
from shoal.ports import free_port
from shoal.processes import ProcessSpec, environment, processes
from shoal.settings import UpSettings
from shoal.up import Up

ITEMS = 200
STOP_SECONDS = 30.0


def two_worker_ratio(home: Path, *, rounds: int, generations: int = 10) -> dict[str, Any]:
    """``two_worker_ratio``: a run's scoring time, from its first search state to its last, with two workers over with one.

    On one Shoal: in every round the same run without the second worker and with it, which joins for that and leaves
    again. Everything but the scoring workers shares the last core, where it has next to nothing to do.
    """
    os.environ["SHOAL_SCORING_THREADS"] = "1"
    first, *others = sorted(os.sched_getaffinity(0))
    if not others:
        raise SystemExit("two workers with a core each need two cores")

    def bound(settings: UpSettings) -> list[ProcessSpec]:
        return [_on(first if spec.name == "score" else others[-1], spec) for spec in processes(settings)]

    took: dict[int, list[float]] = {1: [], 2: []}
    settings = UpSettings.load(home=home, port=free_port(), import_starter=False)
    with Up(settings, table=bound) as up, Client(up.url) as client:
        up.wait_ready(300)
        for number in range(rounds):
            for workers in (1, 2):
                with _second(up, others[0]) if workers == 2 else nullcontext():
                    everybody(client, score=workers)
                    took[workers].append(_searched(client, f"{number}-{workers}", generations))
                print(f"{workers} scoring worker{'s' * (workers > 1)}: {took[workers][-1]:.2f} s", flush=True)
    ratio = statistics.median(took[2]) / statistics.median(took[1])
    return {
        "two_worker_ratio": round(ratio, 3),
        "one_worker_s": took[1],
        "two_workers_s": took[2],
        "met": ratio <= 0.6,
    }


def _searched(client: Client, name: str, generations: int) -> float:
    """Seconds of searching of one run."""
    warm = Story(client, f"warm-{name}", QUICK)  # the workers have their base and experts when the clock starts
    warm.watch()
    size = replace(QUICK, feedback=500, search_items=ITEMS, budget=generations * 10 * ITEMS)
    story = Story(client, f"timed-{name}", size)
    story.watch()
    return story.times["confirming"] - story.times["searching"]


@contextmanager
def _second(up: Up, core: int) -> Iterator[None]:
    """A second scoring worker, as ``shoal up`` would start it, for as long as this lasts."""
    settings, base = up.settings, str(up.pack.base if up.pack else up.settings.base)
    (scorer,) = (spec for spec in processes(settings) if spec.name == "score")
    command = tuple("second@%h" if part == "score@%h" else part for part in scorer.command)
    told = (settings.home / "logs" / "second.log").open("a")
    worker = Child(
        _on(core, replace(scorer, name="second", command=command)),
        mark=secrets.token_hex(8),
        environment=environment(settings, base=base, redis_url=up.redis_url),
        folder=settings.home,
        on_line=lambda _, line: print(line, file=told, flush=True),
    )
    with told:
        try:
            worker.start()
            yield
        finally:
            worker.signal(signal.SIGTERM)
            until = time.monotonic() + STOP_SECONDS
            while worker.running and time.monotonic() < until:
                time.sleep(0.1)
            worker.end()


def _on(core: int, spec: ProcessSpec) -> ProcessSpec:
    return replace(spec, command=("taskset", "-c", str(core), *spec.command))
