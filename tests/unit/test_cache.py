"""The cache of weights on one machine: bounded, and nothing that is in use leaves it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from registry import cache as caches
from registry.artifacts import ArtifactStore, digest_of_folder
from registry.peft_bytes import size_of_folder
from tests.peft_folders import write_adapter

ROOT = Path(__file__).parents[2]


@pytest.fixture
def digests(tmp_path: Path) -> list[str]:
    store = ArtifactStore(f"{tmp_path}/place", tmp_path / "filling")
    return [store.put_folder(write_adapter(tmp_path / f"a{seed}", seed=seed)).digest for seed in range(4)]


def bounded(tmp_path: Path, digests: list[str], *, adapters: float) -> ArtifactStore:
    """A store whose cache has room for that many adapters."""
    sizes = [size_of_folder(path.parent) for path in (tmp_path / "place").rglob("adapter_model.safetensors")]
    size = max(sizes)
    return ArtifactStore(f"{tmp_path}/place", tmp_path / "cache", cache_bytes=int(adapters * size))


def held(store: ArtifactStore, digests: list[str]) -> list[int]:
    """Which of the adapters have a copy."""
    return [number for number, digest in enumerate(digests) if store.cache.path(digest).exists()]


def let_go(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, kept: list[str]) -> None:
    """As if the process had gone on for more than ten minutes."""
    monkeypatch.setattr(caches, "HOLD_SECONDS", -1.0)
    store.keep(kept)


def test_the_least_recently_used_leaves_first(
    tmp_path: Path, digests: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two fit: of those that nobody uses the one that was fetched longest ago makes room."""
    store = bounded(tmp_path, digests, adapters=2.5)
    for number in (0, 1, 0):
        store.fetch(digests[number])
        time.sleep(0.02)
    let_go(store, monkeypatch, [])
    store.fetch(digests[2])
    assert held(store, digests) == [0, 2]
    assert digest_of_folder(store.fetch(digests[1])) == digests[1]


def test_what_is_in_use_stays(tmp_path: Path, digests: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A kept version stays over the bound, as does one that was fetched a moment ago: it may be about to be loaded."""
    store = bounded(tmp_path, digests, adapters=1.5)
    for digest in digests[:3]:
        store.fetch(digest)
    assert held(store, digests) == [0, 1, 2]
    let_go(store, monkeypatch, [digests[0]])
    store.fetch(digests[3])
    assert held(store, digests) == [0, 3]


def test_another_process_takes_away_only_what_nobody_holds(tmp_path: Path, digests: list[str]) -> None:
    """Processes share a cache: a copy leaves when its holder is gone, also when it was killed, and not before."""
    script = (
        "import sys, time; from registry.artifacts import ArtifactStore;"
        "store = ArtifactStore(sys.argv[1], sys.argv[2]); store.fetch(sys.argv[3]); print('held', flush=True);"
        "time.sleep(60)"
    )
    command = [sys.executable, "-c", script, f"{tmp_path}/place", str(tmp_path / "cache"), digests[0]]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == "held"
        store = bounded(tmp_path, digests, adapters=0.5)
        store.fetch(digests[1])
        assert held(store, digests) == [0, 1]
    finally:
        holder.kill()
        holder.wait()
        if holder.stdout:
            holder.stdout.close()
    store.fetch(digests[2])
    assert held(store, digests) == [1, 2]


def test_evicting_and_fetching_at_once_never_fails(
    tmp_path: Path, digests: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stores as of several processes fetch, let go and make room in one cache: every path that was given stays whole."""
    failures: list[str] = []

    def work(offset: int) -> None:
        store = bounded(tmp_path, digests, adapters=0.5)
        for step in range(25):
            digest = digests[(offset + step) % len(digests)]
            if digest_of_folder(store.fetch(digest)) != digest:
                failures.append(digest)
            store.keep([])

    monkeypatch.setattr(caches, "HOLD_SECONDS", -1.0)
    threads = [threading.Thread(target=work, args=(offset,)) for offset in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert not [path for path in (tmp_path / "cache" / "sha256").glob("*/*/*") if "." in path.name]


def test_a_process_does_not_run_out_of_files(
    tmp_path: Path, digests: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that never says what it keeps holds a bounded number of copies, the last ones."""
    monkeypatch.setattr(caches, "MOST_HELD", 2)
    store = bounded(tmp_path, digests, adapters=0.5)
    for digest in digests:
        store.fetch(digest)
    assert held(store, digests)[-2:] == [2, 3]
    assert len(store.cache._held) == 2
