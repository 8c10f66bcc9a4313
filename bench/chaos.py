"""Runs whose processes are killed at random moments: what is delivered, when, and is every event there once?

python -m bench.chaos                 20 runs, one `kill -9` each; about twenty minutes
python -m bench.chaos --quick         one run that is killed, one that is not; at most a minute once installed
python -m bench.chaos --workers       two scoring workers against one, each with a core of its own; about five minutes
python -m bench.chaos --json FILE     and write the figures down

A real Shoal (``shoal up``: Redis with its append-only file, control and scoring worker, beat, BentoML; the service's engine is
the stub, which no run asks anything) with the starter pack. First a run is left alone; then each run has an adapter of its own
with the same experts and the same feedback, a budget in item-generations, and one process that is killed at a random moment of
it: control worker, scoring worker, beat, service and Redis in turn.

- ``runs``: those that were killed. ``same_digest``: those that promoted the weights that the undisturbed run promoted.
- ``duplicate_events``: states of a run in its stream, and its events in the adapter's history, that are there twice.
  ``missing_events``: states that a watcher of the stream was not told, and a registration or promotion that is not there.
- ``slowest_s``: the longest that a run took from the moment when all parts were back (``back_s``: how long that took at most).
"""

from __future__ import annotations

import os
import random
import signal
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from bench.machine import headline, machine
from bench.report import Figures, conclude
from bench.story import FULL, QUICK, RUN_SECONDS, Size, Story, everybody
from bench.two_workers import two_worker_ratio
from registry.errors import ShoalError
from shoal.client import Client
from shoal.ports import free_port
from shoal.settings import UpSettings
from shoal.up import Up

VICTIMS = ("control", "score", "beat", "service", "redis")
BACK_SECONDS = 180.0
ATTEMPTS = 20  # to meet a run before its end


def main(
    quick: Annotated[bool, typer.Option(help="At most a minute once installed.")] = False,
    workers: Annotated[bool, typer.Option(help="Two scoring workers against one.")] = False,
    runs: Annotated[int, typer.Option(min=1, help="How many are killed.")] = 20,
    seed: Annotated[int, typer.Option(help="Of the victims and the moments.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Print the figures; exit 1 where a bar is not met."""
    os.environ["SHOAL_ENGINE"] = "stub"  # of the service: no run asks it anything
    os.environ["SHOAL_MAX_LORAS"] = (
        "64"  # every adapter's champion stays loaded: what leaves for what is not this bench's
    )
    where = machine(("torch", "celery", "redis", "bentoml"), [seed])
    print(headline(where), flush=True)
    with tempfile.TemporaryDirectory(prefix="shoal-chaos-", ignore_cleanup_errors=True) as scratch:
        if workers:
            figures = two_worker_ratio(Path(scratch), rounds=1 if quick else 3, generations=6 if quick else 10)
        else:
            figures = killed(Path(scratch), 1 if quick else runs, QUICK if quick else FULL, seed)
    conclude(where, figures, met=figures.pop("met"), json_file=json_file, rows={"kills": figures.pop("kills", [])})


def killed(home: Path, runs: int, size: Size, seed: int) -> Figures:
    """Everything, on one Shoal of its own."""
    rng = random.Random(seed)
    victims = [VICTIMS[number % len(VICTIMS)] for number in range(runs)]
    rng.shuffle(victims)
    settings = UpSettings.load(home=home, port=free_port(), import_starter=False)
    with Up(settings) as up, Client(up.url) as client:
        up.wait_ready(300)
        everybody(client)
        plain = Story(client, "undisturbed", size)
        plain.watch()
        long = plain.seconds
        print(
            f"undisturbed: {long:.1f} s, {plain.run['item_generations']} item-generations, {plain.told()}", flush=True
        )
        kills = [_one(up, client, number, victims[number], size, plain, rng) for number in range(runs)]
        figures: Figures = {
            "runs": runs,
            "same_digest": sum(kill["same"] for kill in kills),
            "duplicate_events": sum(kill["duplicates"] for kill in kills) + plain.duplicates(),
            "missing_events": sum(kill["missing"] for kill in kills) + plain.missing(),
            "slowest_s": max(kill["after_s"] for kill in kills),
            "killed_while_going": sum(kill["while_going"] for kill in kills),
            "back_s": max(kill["back_s"] for kill in kills),
            "undisturbed_s": round(plain.seconds, 1),
            "item_generations": plain.run["item_generations"],
            "budget": size.budget,
        }
        figures["met"] = bool(plain.digest()) and (
            figures["same_digest"] == runs
            and figures["duplicate_events"] == figures["missing_events"] == 0
            and figures["slowest_s"] <= 60
        )
    return figures | {"kills": kills}


def _one(up: Up, client: Client, number: int, victim: str, size: Size, plain: Story, rng: random.Random) -> Figures:
    """One run, and one kill at a random moment of it."""
    for attempt in range(ATTEMPTS):
        story = Story(client, f"killed-{number}-{attempt}", size)
        watcher = threading.Thread(target=story.watch)
        watcher.start()
        _wait_for_moment(story, watcher, plain, rng)
        if story.still_going():
            break
        watcher.join(RUN_SECONDS)  # it was faster than the undisturbed one: there is nothing to kill in it any more
    at, moment = story.state(), story.age
    up.kill(victim, signal.SIGKILL)
    killed_at = time.monotonic()
    time.sleep(0.5)
    _until_back(up, client)
    back = time.monotonic()
    watcher.join(RUN_SECONDS)
    kill = {
        "run": story.run["id"],
        "victim": victim,
        "second": round(moment, 1),
        "at": at,
        "back_s": round(back - killed_at, 1),
        "after_s": round(max(0.0, story.ended - back), 1),
        "outcome": story.run["outcome"],
        "same": story.digest() == plain.digest() != "",
        "duplicates": story.duplicates(),
        "missing": story.missing(),
        "while_going": story.ended > killed_at,
    }
    print(
        f"{victim} killed {moment:.1f} s into {kill['run']} ({at}); all back after {kill['back_s']} s, the run ended "
        f"{kill['after_s']} s later: {'the same weights' if kill['same'] else 'OTHER WEIGHTS: ' + story.told()}",
        flush=True,
    )
    return kill


def _wait_for_moment(story: Story, watcher: threading.Thread, plain: Story, rng: random.Random) -> None:
    """So far into the run as it goes today, however busy the machine is: to a state, and some of the time to the next."""
    state = rng.randrange(len(plain.states) - 1)
    while len(story.states) <= state and watcher.is_alive():
        time.sleep(0.01)
    time.sleep(rng.uniform(0, plain.stamps[state + 1] - plain.stamps[state]))


def _until_back(up: Up, client: Client) -> None:
    """Until every process runs that should, Redis and the service answer, and each worker of today says that it is there."""
    until = time.monotonic() + BACK_SECONDS
    while time.monotonic() < until:
        with suppress(ShoalError):
            pids = up.processes
            if len(pids) == len(VICTIMS) and client.status()["ready"] and client.status()["redis"] == "up":
                told = {worker["pid"] for worker in client.workers()}
                if {pids["control"], pids["score"], pids["beat"]} <= told:
                    return
        time.sleep(0.25)
    raise SystemExit(f"not all parts came back within {BACK_SECONDS:.0f} s")


if __name__ == "__main__":
    typer.run(main)
