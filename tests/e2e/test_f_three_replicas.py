"""One real vLLM and two stub engines as replicas of one Shoal: a move waits for all of them, and all answer by it.

Runs after the other end-to-end tests; the champion is the one that it was, and the stubs have said goodbye.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from registry.registry import Registry
from registry.settings import RegistrySettings
from shoal.client import Client
from shoal.up import Up
from tests.asking import asked_without_pause
from tests.stub_service import StubService, running

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")

BOT = "support-bot"
ASK = {"model": BOT, "prompt": "reverse: stone\n", "max_tokens": 2}
HELD_UP = 2.0  # seconds that one replica stands still: its heartbeat lives for longer, so it is waited for


@pytest.fixture
def registry(up: Up, tmp_path: Path) -> Iterator[Registry]:
    artifacts, cache = up.settings.home / "artifacts", tmp_path / "cache"
    opened = Registry.open(RegistrySettings(redis_url=up.redis_url, artifacts_url=str(artifacts), cache_dir=str(cache)))
    yield opened
    opened.close()


@pytest.fixture
def stubs(up: Up, registry: Registry, tmp_path: Path) -> Iterator[list[StubService]]:
    """Two more replicas; afterwards the real one is alone again."""
    two = [StubService(registry.settings, tmp_path / name) for name in ("one", "two")]
    with running(*two):
        yield two
    until(lambda: len(registry.replicas.live()) == 1)


def until(holds: Callable[[], bool], within: float = 30.0) -> None:
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def all_hold(registry: Registry, version: int) -> bool:
    live = registry.replicas.live()
    return len(live) == 3 and all(f"{BOT}@{version}" in replica.holds for replica in live)


def test_a_move_waits_for_all_three_and_all_three_answer_by_it(
    up: Up, client: Client, registry: Registry, stubs: list[StubService]
) -> None:
    """A stub that stands still holds a promotion up, the champion unmoved, until it has loaded the version as the others have.
    A rollback through a stub finds the version before on all three. What begins a second after either is answered by the new
    champion, by vLLM and the stubs alike."""
    until(lambda: len(registry.replicas.live()) == 3)
    before = registry.rollout(BOT)
    held = {name for replica in registry.replicas.live() for name in replica.holds}
    version = next(
        one["version"] for one in client.versions(BOT) if f"{BOT}@{one['version']}" not in held and not one["retired"]
    )
    urls = [up.url, *(stub.url for stub in stubs)]
    (late,) = stubs[1].workers()

    with asked_without_pause(ASK, *urls) as seen:
        until(lambda: {url for url, _, _ in seen} == set(urls))
        champions: list[int | None] = []

        def let_go() -> None:
            champions.append(registry.rollout(BOT).champion)
            os.kill(late, signal.SIGCONT)

        os.kill(late, signal.SIGSTOP)
        release, began = threading.Timer(HELD_UP, let_go), time.monotonic()
        release.start()
        try:
            client.promote(BOT, version, reason="three replicas")
        finally:
            promoted = time.monotonic()
            release.join()
        assert promoted - began >= HELD_UP
        assert champions == [before.champion]
        assert all_hold(registry, version)
        time.sleep(3.0)
        going_back = time.monotonic()
        with Client(stubs[0].url) as other:
            back = other.rollback(BOT, reason="three replicas")
        rolled_back = time.monotonic()
        assert back["champion"] == before.champion
        assert all_hold(registry, before.champion or 0)
        time.sleep(2.0)

    new, old = f"{BOT}@{version}", f"{BOT}@{before.champion}"
    assert {name for _, _, name in seen} == {old, new}
    # Half a second: a request that was sent just before the rollback may be let in after it.
    for moved, until_then, champion in ((promoted, going_back - 0.5, new), (rolled_back, float("inf"), old)):
        after = {(url, name) for url, at, name in seen if moved + 1.0 <= at < until_then}
        assert after == {(url, champion) for url in urls}
    assert registry.rollout(BOT).trail == before.trail
