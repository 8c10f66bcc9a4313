"""What is counted of each version, and what becomes of it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from registry.errors import RegistryDown
from registry.figures import FIRST_SECONDS, first_field, readable
from registry.records import Rollout, now
from service.engine import EngineSettings, EngineUnavailable
from service.engines.stub import StubEngine
from service.exchanges import Choice, Exchange
from service.shadow import WAITING, Shadow, agreement
from service.tally import Tally


class Book:
    """Figures that can be away, as Redis can."""

    def __init__(self) -> None:
        self.away = False
        self.sums: dict[tuple[str, int], dict[str, float]] = {}

    def add_many(self, counted: Mapping[tuple[str, int], Mapping[str, float]]) -> None:
        if self.away:
            raise RegistryDown("for the test")
        for version, sums in counted.items():
            held = self.sums.setdefault(version, {})
            for field, amount in sums.items():
                held[field] = held.get(field, 0.0) + amount

    def read(self, adapter: str) -> dict[int, dict[str, Any]]:
        return {number: readable(sums) for (name, number), sums in self.sums.items() if name == adapter}


def exchange(version: str = "bot@1", **more: Any) -> Exchange:
    given = {"prompt": "who", "choices": (Choice("me", "stop"),), "seconds": 2.0, "answer_tokens": 10} | more
    return Exchange(request_id="r", model="bot", version=version, session=None, **given)


async def test_what_is_counted_while_redis_is_away_is_carried_on_once_it_is_back() -> None:
    book = Book()
    tally = Tally(book)  # type: ignore[arg-type]  # a book in memory
    tally.answered(exchange(seconds_to_first=0.2))
    tally.answered(exchange(aborted=True))
    tally.answered(exchange(aborted=True, error="the engine broke off"))
    tally.answered(exchange("base"))
    book.away = True
    await tally.flush()
    assert book.sums == {}
    book.away = False
    await tally.flush()
    await tally.flush()
    assert list(book.sums) == [("bot", 1)]
    told = book.read("bot")[1]
    assert (told["requests"], told["errors"], told["aborted"]) == (3, 1, 1)
    assert told["tokens_per_second"] == 5.0
    assert 0.1 < told["seconds_to_first_p50"] <= 0.25


async def test_who_left_has_waited_as_long_as_he_stayed_before_the_first_token() -> None:
    """Whole answers and streams, answered or left; an answer that the engine failed to give is an error and no wait."""
    book = Book()
    tally = Tally(book)  # type: ignore[arg-type]  # a book in memory
    waits = {
        2.0: exchange(seconds=2.0),
        0.25: exchange(seconds=4.0, seconds_to_first=0.25, streamed=True),
        30.0: exchange(seconds=30.0, aborted=True, choices=()),
        20.0: exchange(seconds=20.0, aborted=True, choices=(), streamed=True),
        0.5: exchange(seconds=25.0, aborted=True, seconds_to_first=0.5, streamed=True),
    }
    for each in waits.values():
        tally.answered(each)
    tally.answered(exchange(seconds=40.0, aborted=True, error="the engine broke off"))
    await tally.flush()
    sums = book.sums["bot", 1]
    assert (sums["requests"], sums["waits"], sums["aborted"], sums["errors"]) == (6, 5, 3, 1)
    assert math.isclose(sums["wait_logs"], sum(map(math.log, waits)))
    assert math.isclose(sums["wait_log_squares"], sum(math.log(seconds) ** 2 for seconds in waits))


async def test_the_wait_for_a_version_is_waited_and_is_no_part_of_how_fast_it_writes() -> None:
    book = Book()
    tally = Tally(book)  # type: ignore[arg-type]  # a book in memory
    tally.answered(exchange(seconds=10.0, seconds_to_admission=8.0, answer_tokens=10))
    await tally.flush()
    assert math.isclose(book.sums["bot", 1]["wait_logs"], math.log(10.0))
    assert book.read("bot")[1]["tokens_per_second"] == 5.0


@given(st.lists(st.floats(0.0, 8.0), min_size=1, max_size=50))
def test_the_median_lies_in_the_bucket_of_the_true_one(times: list[float]) -> None:
    sums: dict[str, float] = {}
    for seconds in times:
        sums[first_field(seconds)] = sums.get(first_field(seconds), 0) + 1
    told = readable(sums)["seconds_to_first_p50"]
    true = sorted(times)[(len(times) - 1) // 2]
    bounds = [0.0, *FIRST_SECONDS]
    upper = next((bound for bound in FIRST_SECONDS if true <= bound), FIRST_SECONDS[-1])
    lower = bounds[bounds.index(upper) - 1] if true <= FIRST_SECONDS[-1] else FIRST_SECONDS[-1]
    assert lower <= told <= upper


class InShadow:
    """A replica whose adapter has a trial on the side; ``leases``: answers that users wait for."""

    def __init__(self) -> None:
        self.leases: dict[str, int] = {}

    def rollout(self, adapter: str) -> Rollout:
        return Rollout(adapter=adapter, revision=3, champion=1, challenger=2, shadow=True, moved_at=now())

    async def hold(self, model: Any, session: str | None) -> Any:
        raise EngineUnavailable


async def test_a_shadow_drops_what_it_cannot_ask_and_counts_what_fails() -> None:
    """More questions than may wait are dropped at once; one that the challenger cannot answer is an error of its own."""
    book = Book()
    tally = Tally(book)  # type: ignore[arg-type]  # a book in memory
    kept: list[Exchange] = []
    engine = StubEngine(EngineSettings(base="stub"))
    shadow = Shadow(InShadow(), engine, tally, kept.append)  # type: ignore[arg-type]  # as much of a replica as it asks
    for _ in range(WAITING + 3):
        shadow.offer(exchange())
    shadow.offer(exchange("bot@2"))  # the challenger's own answer, asked by name: nobody's shadow
    shadow.offer(exchange(aborted=True))
    asking = asyncio.create_task(shadow.run())
    while not shadow.idle:  # noqa: ASYNC110  # it has no event to wait for
        await asyncio.sleep(0)
    asking.cancel()
    await tally.flush()
    told = book.read("bot")[2]["shadow"]
    assert (told["requests"], told["errors"], told["dropped"]) == (WAITING, WAITING, 3)
    assert kept == []


def test_agreement_is_one_for_the_same_text_only() -> None:
    assert agreement("a b c", "a b c") == 1.0
    assert 0.0 < agreement("a b c", "a b d") < 1.0
    assert agreement("abc", "xyz") == 0.0
