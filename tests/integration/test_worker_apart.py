"""A scoring worker on a machine of its own: Redis and S3 are all that it has in common with anybody."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from registry.adaptation import begin
from registry.artifacts import CONFIG, TENSORS, ArtifactStore, digest_of_folder
from registry.records import RunSpec
from registry.registry import Registry
from registry.settings import RegistrySettings
from service.bell import Bell
from tests import s3_server
from tests.corrected import BOT, PACK, correct
from tests.worker_process import ended, machine


@pytest.fixture
def shared(redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[RegistrySettings]:
    """Redis, and a bucket of a real S3-compatible server."""
    with s3_server.running() as s3:
        for name, value in s3.items():
            monkeypatch.setenv(name, value)
        s3_server.forget_connections()
        url = f"s3://{s3_server.bucket(s3['AWS_ENDPOINT_URL'])}/weights"
        yield RegistrySettings(redis_url=redis_url, namespace=namespace, artifacts_url=url, base=str(PACK.base))
        s3_server.forget_connections()


def cached(home: Path) -> set[str]:
    """The digests of the adapters in a machine's cache, by their bytes."""
    return {
        digest_of_folder(path.parent) for path in (home / "cache").rglob(CONFIG) if (path.parent / TENSORS).exists()
    }


def test_a_worker_without_a_shared_disk_completes_a_run(shared: RegistrySettings, tmp_path: Path) -> None:
    """Its empty cache fills with the experts, from S3; the version that it made is on S3, for a third machine to fetch.

    What the machine that registered the experts had on its disk is deleted before the worker starts.
    """
    ours = tmp_path / "ours"
    registry = Registry.open(shared.model_copy(update={"cache_dir": str(ours / "cache")}))
    with ExitStack() as stack:
        stack.callback(registry.close)
        for name in ("dedup", "shift", "swap"):  # the champion knows nothing of what users ask
            folder = shutil.copytree(PACK.experts[name], ours / name)
            registry.register(BOT, folder, by="test", label=name)
        registry.promote(BOT, 1, by="test")
        correct(registry, 120)
        run = begin(registry, RunSpec(adapter=BOT, seed=1, max_generations=1), by="test")
        shutil.rmtree(ours)
        logs = [stack.enter_context(machine(name, tmp_path / name, shared)) for name in ("control", "score")]
        assert Bell(shared).advance(run.id)
        done = ended(registry, run, logs)
    assert (done.status, done.promoted) == ("done", True), done.outcome
    made = registry.version(BOT, done.version or 0)
    experts = {expert.digest for expert in done.experts}
    assert experts <= cached(tmp_path / "score")
    assert not cached(tmp_path / "control") & experts
    third = ArtifactStore(shared.artifacts_url, tmp_path / "third")
    assert digest_of_folder(third.fetch(made.digest)) == made.digest
