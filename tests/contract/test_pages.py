"""Lists come in pages that fit together and cost what the page costs, in both stores."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from registry.connection import connect
from registry.errors import AdapterUnknown
from registry.keys import Keys
from registry.store import Store
from registry.stores.memory import MemoryStore
from registry.stores.redis import RedisStore
from tests.contract.test_store import create, stocked


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest, namespace: str) -> Iterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    client = connect(request.getfixturevalue("redis_url"))
    yield RedisStore(client, Keys(namespace))
    client.close()


def test_pages_of_versions_fit_together(store: Store) -> None:
    """Newest first, none twice, none left out, retired ones marked; beyond the last there is nothing."""
    moves = stocked(store, versions=7)
    moves.retire("bot", 4, by="ann")
    every = store.versions("bot")

    pages = [store.versions("bot", 3, before) for before in (None, 5, 2)]

    assert [[version.version for version in page] for page in pages] == [[7, 6, 5], [4, 3, 2], [1]]
    assert [version for page in pages for version in page] == every
    assert pages[1][0].retired
    assert store.versions("bot", 3, 1) == []
    assert [version.version for version in store.versions("bot", 3, 1_000_000)] == [7, 6, 5]
    with pytest.raises(AdapterUnknown):
        store.versions("no", 3, 5)


def test_pages_of_adapters_fit_together(store: Store) -> None:
    """By name, none twice, none left out; the name to go on from need not be there."""
    names = sorted(["b", "a.b-c_d", "c", "a1", "a"])
    for name in reversed(names):
        create(store, name)

    pages = [store.adapters(2, after) for after in ("", names[1], names[3])]

    assert [[adapter.name for adapter in page] for page in pages] == [names[:2], names[2:4], names[4:]]
    assert [adapter for page in pages for adapter in page] == store.adapters()
    assert [adapter.name for adapter in store.adapters(after="b0")] == ["c"]


def test_the_newest_versions_of_every_adapter(store: Store) -> None:
    """Their numbers, without those that are retired; an adapter without versions has none."""
    stocked(store, versions=5).retire("bot", 4, by="ann")
    create(store, "idle")

    assert store.newest(3) == {"bot": [5, 3], "idle": []}
    assert store.newest(100) == {"bot": [5, 3, 2, 1], "idle": []}
