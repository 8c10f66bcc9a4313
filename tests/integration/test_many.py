"""A registry with a thousand adapters and ten thousand versions: what is asked often costs as much as a page, counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.full_registry import CROWDED, fill
from registry.connection import RegistryRedis, connect
from registry.keys import Keys
from registry.registry import Registry
from registry.settings import RegistrySettings
from registry.stores.redis import RedisStore
from tests.redis_server import binary, running
from tests.served_app import serving

ADAPTERS, VERSIONS = 1000, 10_000


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis of its own, filled once."""
    if (executable := binary()) is None:
        pytest.skip("no redis-server here")
    with running(executable, tmp_path_factory.mktemp("full")) as server:
        fill(server.url, ADAPTERS, VERSIONS)
        yield server.url


@pytest.fixture
def client(full: str) -> Iterator[RegistryRedis]:
    with connect(full) as client:
        yield client


def cost(client: RegistryRedis, ask: Callable[[], object]) -> tuple[int, int]:
    """How many commands Redis saw, and how many bytes it answered."""

    def counted() -> tuple[int, int]:
        told = client.info("stats")
        return told["total_commands_processed"], told["total_net_output_bytes"]

    before = counted()
    idle = [after - first for first, after in zip(before, counted(), strict=True)]
    before = counted()
    ask()
    return tuple(after - first - own for first, after, own in zip(before, counted(), idle, strict=True))  # type: ignore[return-value]


def test_a_page_costs_a_page(client: RegistryRedis) -> None:
    """Versions, adapters and history: the commands and bytes of a page do not know how many there are."""
    store = RedisStore(client, Keys())
    for ask in (
        lambda: store.versions(CROWDED, 100),
        lambda: store.versions(CROWDED, 100, 5000),
        lambda: store.history(CROWDED, 100, None),
        lambda: store.history(CROWDED, 100, 5000),
    ):
        commands, size = cost(client, ask)
        assert commands <= 5
        assert size < 100_000
    commands, size = cost(client, lambda: store.adapters(50, "idle-5"))
    assert commands <= 1 + 2 * 50 + 2
    assert size < 100_000


async def test_every_list_is_paged_to_its_end(full: str, registry_settings: RegistrySettings, tmp_path: Path) -> None:
    """Through the service's real app: pages fit together, the last says null; limits out of range are refused."""
    settings = registry_settings.model_copy(update={"redis_url": full, "namespace": "shoal"})
    async with serving(settings, tmp_path / "home") as shoal:
        for path, key, field, turn, expected in (
            (f"/api/adapters/{CROWDED}/versions", "versions", "version", "before", VERSIONS),
            (f"/api/adapters/{CROWDED}/history", "events", "number", "before", VERSIONS + 1),
            ("/api/adapters", "adapters", "name", "after", ADAPTERS),
        ):
            found, place = [], None
            while True:
                asked = {"limit": 900} | ({} if place is None else {turn: place})
                answer = (await shoal.get(path, params=asked)).json()
                assert key in answer, answer
                found += [row[field] for row in answer[key]]
                if (place := answer["next"]) is None:
                    break
            assert len(found) == len(set(found)) == expected
            assert found == sorted(found, reverse=turn == "before")
            for limit in (0, 1001):
                assert (await shoal.get(path, params={"limit": limit})).status_code == 422
        assert len((await shoal.get(f"/api/adapters/{CROWDED}/versions")).json()["versions"]) == 100


async def test_models_are_listed_in_a_few_round_trips(
    full: str, registry_settings: RegistrySettings, tmp_path: Path
) -> None:
    """The list names the newest hundred of an adapter; an older version is still found by its name."""
    settings = registry_settings.model_copy(update={"redis_url": full, "namespace": "shoal"})
    async with serving(settings, tmp_path / "home") as shoal:
        listed = [model["id"] for model in (await shoal.get("/v1/models")).json()["data"]]
        assert sum(name.startswith(f"{CROWDED}@") for name in listed) == 100
        assert f"{CROWDED}@{VERSIONS}" in listed
        assert {"idle-0", CROWDED} <= set(listed)
        assert (await shoal.get(f"/v1/models/{CROWDED}@1")).json()["id"] == f"{CROWDED}@1"
        assert (await shoal.get(f"/v1/models/{CROWDED}")).json()["id"] == CROWDED
        for missing in (f"{CROWDED}@{VERSIONS + 1}", "no", "no@1"):
            assert (await shoal.get(f"/v1/models/{missing}")).status_code == 404


def test_the_newest_of_all_adapters_take_two_round_trips(registry_settings: RegistrySettings, full: str) -> None:
    """One for the adapters, one for each thousand of them: not one an adapter."""
    registry = Registry.open(registry_settings.model_copy(update={"redis_url": full, "namespace": "shoal"}))
    trips: list[int] = []
    send = registry.redis.pipeline

    def counted(*args: object, **how: object) -> object:
        trips.append(1)
        return send(*args, **how)  # type: ignore[arg-type]

    registry.redis.pipeline = counted  # type: ignore[method-assign,assignment]
    newest = registry.newest(100)
    registry.close()
    assert len(trips) == 1
    assert len(newest) == ADAPTERS
    assert newest[CROWDED] == list(range(VERSIONS, VERSIONS - 100, -1))
