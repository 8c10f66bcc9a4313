"""One real Shoal for all end-to-end tests: Redis, workers, beat, and the service on vLLM with the starter pack."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from openai import OpenAI

from shoal.client import Client
from shoal.ports import free_port
from shoal.settings import UpSettings
from shoal.up import Up


@pytest.fixture(scope="session")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    settings = UpSettings(home=tmp_path_factory.mktemp("shoal"), port=free_port())
    with Up(settings) as running:
        assert running.wait_ready(timeout=400)
        yield running


@pytest.fixture
def client(up: Up) -> Iterator[Client]:
    with Client(up.url) as opened:
        yield opened


@pytest.fixture
def openai(up: Up) -> Iterator[OpenAI]:
    """The unchanged client, without retries: a failure must show."""
    with OpenAI(base_url=f"{up.url}/v1", api_key="none", max_retries=0, timeout=120) as opened:
        yield opened


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/e2e/" in str(item.path):
            item.add_marker(pytest.mark.e2e)
