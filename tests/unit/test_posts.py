"""Single posts that come together are kept together, and each is answered by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from registry.errors import BadInput
from registry.records import Feedback
from service.auth import Caller
from service.posts import ENOUGH, Post, Posts, Told

ANN = Caller("ann", "key-1", frozenset({"feedback"}))


def record(name: str) -> Feedback:
    return Feedback(id=name, adapter="bot", prompt="q", answer="a", rating=1.0, at=datetime(2026, 1, 1, tzinfo=UTC))


class Keeper:
    """Keeps what it is given; ``bad`` is refused, ``later`` waits on disk."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.calls: list[list[str]] = []
        self._seconds = seconds

    def __call__(self, posts: Sequence[Post]) -> list[Told]:
        time.sleep(self._seconds)
        names = [str(fields["id"]) for fields, _ in posts]
        self.calls.append(names)
        if "defect" in names:
            raise RuntimeError("a defect")
        said: dict[str, Any] = {"bad": BadInput("no"), "later": "later"}
        return [said.get(name) or (record(name), True) for name in names]


async def test_posts_of_one_moment_are_one_call_and_each_has_its_own_answer() -> None:
    """One is refused, one is on disk, the others are kept: nobody gets another's answer."""
    keeper = Keeper()
    posts = Posts(keeper)
    names = ["a", "bad", "later", "b"]
    told = await asyncio.gather(*(posts.add({"id": name}, ANN) for name in names), return_exceptions=True)
    assert keeper.calls == [names]
    assert told[0] == (record("a"), True)
    assert isinstance(told[1], BadInput)
    assert told[2:] == ["later", (record("b"), True)]


async def test_enough_posts_do_not_wait_for_more() -> None:
    """The eighth begins the call; what comes during it is the next call, in its order."""
    keeper = Keeper(seconds=0.05)
    posts = Posts(keeper)
    first = [asyncio.create_task(posts.add({"id": f"a{number}"}, ANN)) for number in range(ENOUGH)]
    await asyncio.sleep(0.01)
    second = [asyncio.create_task(posts.add({"id": f"b{number}"}, ANN)) for number in range(3)]
    await asyncio.gather(*first, *second)
    assert keeper.calls[0] == [f"a{number}" for number in range(ENOUGH)]
    assert [name for call in keeper.calls[1:] for name in call] == ["b0", "b1", "b2"]


async def test_a_defect_is_told_to_those_it_hit_and_to_no_other() -> None:
    """The next posts are kept as if nothing had been."""
    posts = Posts(Keeper())
    told = await asyncio.gather(*(posts.add({"id": name}, ANN) for name in ("a", "defect")), return_exceptions=True)
    assert [type(one) for one in told] == [RuntimeError, RuntimeError]
    assert await posts.add({"id": "b"}, ANN) == (record("b"), True)


async def test_one_who_goes_away_takes_nobodys_answer_along() -> None:
    """A caller that is cancelled has its post kept all the same."""
    keeper = Keeper()
    posts = Posts(keeper)
    gone = asyncio.create_task(posts.add({"id": "gone"}, ANN))
    stays = asyncio.create_task(posts.add({"id": "stays"}, ANN))
    await asyncio.sleep(0)
    gone.cancel()
    assert await stays == (record("stays"), True)
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert keeper.calls == [["gone", "stays"]]
