"""A Redis that hangs holds up one caller for two seconds, and everybody else not at all."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from registry.connection import ANSWER_SECONDS, REST_SECONDS, connect
from registry.errors import RegistryDown
from tests.redis_server import RedisServer


def test_after_one_silence_everybody_is_told_at_once(redis_process: RedisServer) -> None:
    """A thousand calls on eight threads do not wait a thousand times; after SIGCONT they are answered again."""
    client = connect(redis_process.url)
    client.ping()
    redis_process.hang()
    started = time.monotonic()
    with pytest.raises(RegistryDown):
        client.ping()

    def refused(_: int) -> bool:
        with pytest.raises(RegistryDown):
            client.get("key")
        return True

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(refused, range(1000)))
    assert time.monotonic() - started < 3 * ANSWER_SECONDS + REST_SECONDS
    redis_process.go_on()
    deadline = time.monotonic() + 10
    while True:
        try:
            assert client.get("key") is None
            break
        except RegistryDown:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    client.close()


def test_a_redis_that_will_not_write_is_down(redis_process: RedisServer) -> None:
    """Its memory is full, or its disk: to a caller that is the same as gone, in a script and outside one."""
    client = connect(redis_process.url)
    client.config_set("maxmemory", "1")
    for write in (lambda: client.set("a", "b"), lambda: client.eval("return redis.call('SET', KEYS[1], '1')", 1, "a")):
        with pytest.raises(RegistryDown):
            write()
    client.close()
