"""A lease is counted at once, released exactly once, and what is held does not drain."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest

from service.leases import LeasedStreamingResponse, Leases


async def test_a_lease_counts_until_it_is_released_and_only_once() -> None:
    leases = Leases()
    first, second = leases.hold("a@1"), leases.hold("a@1")
    first.release()
    first.release()
    assert leases.held("a@1") == 1
    with second:
        assert leases.all() == {"a@1": 1}
    assert leases.held("a@1") == 0
    assert leases.all() == {}


async def test_a_version_drains_when_its_last_lease_goes() -> None:
    leases = Leases()
    first, second = leases.hold("a@1"), leases.hold("a@1")
    draining = asyncio.create_task(leases.drained("a@1", 5))
    also_draining = asyncio.create_task(leases.drained("a@1", 5))
    first.release()
    await asyncio.sleep(0)
    assert not draining.done()
    second.release()
    assert await draining
    assert await also_draining
    assert await leases.drained("never@1", 0)


async def test_a_version_that_is_asked_again_while_it_drains_has_not_drained() -> None:
    leases = Leases()
    first = leases.hold("a@1")
    draining = asyncio.create_task(leases.drained("a@1", 0.05))
    await asyncio.sleep(0)
    first.release()
    second = leases.hold("a@1")
    assert not await draining
    second.release()
    assert await leases.drained("a@1", 0.05)


async def test_a_lease_that_is_dropped_is_released() -> None:
    """A request can be cancelled between being let in and being answered."""
    leases = Leases()
    leases.hold("a@1")
    gc.collect()
    assert leases.held("a@1") == 0


class Stream:
    """Events that say whether they were closed."""

    def __init__(self, events: int) -> None:
        self.left = events
        self.closed = False

    async def __call__(self) -> AsyncIterator[str]:
        try:
            while self.left:
                self.left -= 1
                yield "data: x\n\n"
                await asyncio.sleep(0)
        finally:
            self.closed = True


SCOPE: dict[str, Any] = {"type": "http", "asgi": {"spec_version": "2.3"}}


async def receive_never() -> dict[str, Any]:
    await asyncio.Event().wait()
    raise AssertionError


async def test_a_stream_holds_its_lease_until_it_has_been_sent() -> None:
    leases, stream, told = Leases(), Stream(3), []
    response = LeasedStreamingResponse(stream(), leases.hold("a@1"), on_close=lambda: told.append(leases.held("a@1")))
    held = []

    async def send(message: dict[str, Any]) -> None:
        held.append(leases.held("a@1"))

    await response(SCOPE, receive_never, send)
    assert set(held) == {1}
    assert (leases.held("a@1"), told) == (0, [0])


async def test_a_client_that_leaves_ends_the_stream_and_then_the_lease() -> None:
    leases, stream = Leases(), Stream(10_000)
    response = LeasedStreamingResponse(stream(), leases.hold("a@1"))
    sent = 0

    async def send(message: dict[str, Any]) -> None:
        nonlocal sent
        sent += 1

    async def receive() -> dict[str, Any]:
        while sent < 3:  # noqa: ASYNC110  # what is awaited is a count that `send` keeps
            await asyncio.sleep(0)
        return {"type": "http.disconnect"}

    await response(SCOPE, receive, send)
    assert stream.closed
    assert stream.left > 0
    assert leases.held("a@1") == 0


async def test_a_stream_that_never_starts_releases_its_lease() -> None:
    leases, stream = Leases(), Stream(3)
    response = LeasedStreamingResponse(stream(), leases.hold("a@1"))

    async def send(message: dict[str, Any]) -> None:
        raise OSError("the connection is gone")

    with pytest.raises((OSError, ExceptionGroup)):
        await response(SCOPE, receive_never, send)
    assert leases.held("a@1") == 0


async def test_a_cancelled_request_releases_its_lease() -> None:
    leases, stream = Leases(), Stream(3)
    response = LeasedStreamingResponse(stream(), leases.hold("a@1"))

    async def send(message: dict[str, Any]) -> None:
        await asyncio.Event().wait()

    serving = asyncio.create_task(response(SCOPE, receive_never, send))
    await asyncio.sleep(0.01)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert leases.held("a@1") == 0
