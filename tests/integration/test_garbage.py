"""Garbage collection and the check: only bytes that no record names go, and what cannot be served is told by name."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.adaptation import begin
from registry.arrivals import Arrivals
from registry.artifact_check import check
from registry.artifacts import TENSORS, ArtifactStore, digest_of_folder
from registry.errors import Conflict
from registry.garbage import GRACE_SECONDS, collect
from registry.keys import Keys
from registry.place import Place
from registry.records import Feedback, RunSpec, now
from registry.registry import Registry
from tests import s3_server
from tests.peft_folders import write_adapter

BOT = "bot"


def age(registry: Registry, seconds: float = GRACE_SECONDS + 60) -> None:
    """As if everything had been stored that long ago."""
    table = Keys(registry.settings.namespace).artifacts("arriving")
    for digest in registry.redis.zrange(table, 0, -1):
        registry.redis.zadd(table, {digest: time.time() - seconds})
    if registry.artifacts.place.local:
        for path in [Path(registry.artifacts.place.root), *Path(registry.artifacts.place.root).rglob("*")]:
            os.utime(path, (time.time() - seconds, time.time() - seconds))


def stored(registry: Registry) -> set[str]:
    return {each.digest for each in registry.artifacts.place.listing()}


def test_only_what_no_record_names_is_deleted(registry: Registry, tmp_path: Path) -> None:
    """Versions, a retired one too, the snapshot and the finalist of a run stay; stray bytes go, after a dry run as told."""
    kept = {
        registry.register(BOT, write_adapter(tmp_path / f"v{seed}", seed=seed), by="t")[0].digest for seed in range(3)
    }
    registry.promote(BOT, 1, by="t")
    registry.retire(BOT, 3, by="t")
    for number in range(80):
        registry.feedback.add_many(
            [Feedback(id=f"f{number}", adapter=BOT, prompt=f"{number}?", answer="a", correction="b", at=now())]
        )
    run = begin(registry, RunSpec(adapter=BOT, experts=(1, 2)), by="t")
    assert run.snapshot is not None
    finalist = registry.artifacts.put_folder(write_adapter(tmp_path / "finalist", seed=7)).digest
    registry.runs.open_step(run.id, "confirm", [{"run": run.id}])
    fence = registry.runs.claim(run.id, "confirm", 0, lease_seconds=5)
    registry.runs.report(run.id, "confirm", 0, fence or 0, {"digest": finalist})
    kept |= {run.snapshot.digest, finalist}
    stray = registry.artifacts.put_folder(write_adapter(tmp_path / "stray", seed=8))
    note = registry.artifacts.put_json({"nobody": "names it"})
    leftover = Path(registry.artifacts.place.root) / "arriving" / "dead"
    leftover.mkdir()
    (leftover / "half").write_bytes(b"x" * 10)

    assert collect(registry, dry_run=False).collected == ()  # all of it is young

    age(registry)
    told = collect(registry, dry_run=True)
    assert stored(registry) == kept | {stray.digest, note}
    assert leftover.exists()
    done = collect(registry, dry_run=False)

    assert {each.what for each in told.collected} == {stray.digest, note, str(leftover)}
    assert done.collected == told.collected
    assert done.size == stray.size + len('{"nobody":"names it"}') + 10
    assert stored(registry) == kept
    assert not leftover.exists()
    assert collect(registry, dry_run=False).collected == ()


def test_scratch_in_use_stays_however_short_the_grace_is(registry: Registry, tmp_path: Path) -> None:
    """A long copy writes to its file and not to its folder; a writer that is silent for less than an hour is alive."""
    registry.register(BOT, write_adapter(tmp_path / "named"), by="t")
    arriving = Path(registry.artifacts.place.root) / "arriving"
    at = time.time()
    for name, folder_age, file_age in (
        ("dead", 2 * 3600, 2 * 3600),
        ("copying", 2 * 3600, 120),  # a folder that is old and a file that grows
        ("begun", 120, 2 * 3600),
        ("pausing", 1800, 1800),
    ):
        (arriving / name).mkdir()
        (arriving / name / "half").write_bytes(b"x")
        os.utime(arriving / name / "half", (at - file_age, at - file_age))
        os.utime(arriving / name, (at - folder_age, at - folder_age))

    collected = collect(registry, dry_run=False, grace=60.0).collected

    assert {each.what for each in collected} == {str(arriving / "dead")}
    assert {path.name for path in arriving.iterdir()} == {"copying", "begun", "pausing"}


def test_what_was_announced_in_the_grace_period_stays(registry: Registry, tmp_path: Path) -> None:
    """Old stray bytes that somebody stores again are not deleted before they can be registered."""
    registry.register(BOT, write_adapter(tmp_path / "named"), by="t")
    folder = write_adapter(tmp_path / "again", seed=3)
    digest = registry.artifacts.put_folder(folder).digest
    age(registry)
    registry.artifacts.put_folder(folder)  # nothing is written: it is whole
    collected = collect(registry, dry_run=False)
    assert (collected.collected, collected.young) == ((), 1)
    assert registry.register_digest(BOT, digest, by="t", rank=1, size=1)[1]


def test_what_is_registered_in_a_long_collection_keeps_its_bytes(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Announced and registered after the records were read, and longer ago than the grace when its turn comes: old stray bytes
    that a version names by now stay."""
    registry.register(BOT, write_adapter(tmp_path / "named"), by="t")
    folders = {
        registry.artifacts.put_folder(folder).digest: folder
        for folder in (write_adapter(tmp_path / f"stray{seed}", seed=seed) for seed in (1, 2, 3))
    }
    age(registry)
    delete, deleted = Place.delete, list[str]()

    def slowly(place: Place, digest: str) -> None:
        delete(place, digest)
        deleted.append(digest)
        if len(deleted) == 1:
            for other in folders.keys() - {digest}:
                registry.register(BOT, folders[other], by="t")
            time.sleep(3.5)

    monkeypatch.setattr(Place, "delete", slowly)
    collection = collect(registry, dry_run=False, grace=1.0)

    assert [each.what for each in collection.collected] == deleted
    assert (len(deleted), collection.young) == (1, 2)
    assert check(registry).findings == ()


def test_registering_while_collecting_never_loses_bytes(registry: Registry, tmp_path: Path) -> None:
    """Old stray bytes are registered and collected at the same moment: whoever is first, a version has its bytes."""
    registry.register(BOT, write_adapter(tmp_path / "named", seed=99), by="t")
    for seed in range(12):
        folder = write_adapter(tmp_path / f"race{seed}", seed=seed)
        registry.artifacts.put_folder(folder)
        age(registry)
        together = threading.Barrier(2)

        def sweep(together: threading.Barrier = together) -> None:
            together.wait()
            collect(registry, dry_run=False)

        collector = threading.Thread(target=sweep)
        collector.start()
        together.wait()
        version, _ = registry.register(BOT, folder, by="t")
        collector.join()
        assert registry.artifacts.has(version.digest)
    assert check(registry).findings == ()


def test_who_announces_a_condemned_digest_waits(registry: Registry) -> None:
    """While bytes are being deleted nobody counts on them; afterwards they may be put again."""
    arrivals = Arrivals(registry.redis, Keys(registry.settings.namespace))
    digest = "sha256:" + "a" * 64
    assert arrivals.condemn(digest, arrivals.since(GRACE_SECONDS))
    waiting = threading.Thread(target=arrivals.announce, args=(digest,))
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive()
    arrivals.pardon(digest)
    waiting.join(5)
    assert not waiting.is_alive()
    assert not arrivals.condemn(digest, arrivals.since(GRACE_SECONDS))


def test_an_empty_redis_deletes_nothing(registry: Registry, tmp_path: Path) -> None:
    """Records that name nothing of a full place are the wrong records: refused, with what to check."""
    digest = registry.artifacts.put_folder(write_adapter(tmp_path / "mine")).digest
    age(registry)
    with pytest.raises(Conflict, match="right Redis"):
        collect(registry, dry_run=False)
    assert registry.artifacts.has(digest)


@pytest.fixture(params=["file", "s3"])
def anywhere(
    registry: Registry, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Registry]:
    """The registry with its weights in either place."""
    if request.param == "file":
        yield registry
        return
    with s3_server.running() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        s3_server.forget_connections()
        url = f"s3://{s3_server.bucket(environment['AWS_ENDPOINT_URL'])}/prefix"
        registry.artifacts = ArtifactStore(url, tmp_path / "cache", announce=registry.artifacts.announce)
        yield registry
        s3_server.forget_connections()


def test_the_check_names_what_cannot_be_served(anywhere: Registry, tmp_path: Path) -> None:
    """A damaged and a missing adapter are told with the versions that name them; whole ones are counted."""
    registry = anywhere
    folders = [write_adapter(tmp_path / f"v{seed}", seed=seed) for seed in range(3)]
    versions = [registry.register(BOT, folder, by="t")[0] for folder in folders]
    registry.register("other", folders[1], by="t")
    assert check(registry).to_json() == {"checked": 3, "findings": []}
    fs, path = registry.artifacts.place.fs, registry.artifacts.place.path(versions[1].digest)
    content = bytearray(fs.cat_file(f"{path}/{TENSORS}"))
    content[-1] ^= 1
    fs.pipe_file(f"{path}/{TENSORS}", bytes(content))
    registry.artifacts.place.delete(versions[2].digest)

    found = {finding.digest: finding for finding in check(registry).findings}

    assert (found[versions[1].digest].state, found[versions[1].digest].named_by) == ("damaged", ("bot@2", "other@1"))
    assert (found[versions[2].digest].state, found[versions[2].digest].named_by) == ("missing", ("bot@3",))
    assert len(found) == 2
    registry.artifacts.put_folder(folders[1])
    registry.artifacts.put_folder(folders[2])
    assert check(registry).findings == ()
    assert digest_of_folder(registry.artifacts.fetch(versions[1].digest)) == versions[1].digest


def test_collecting_on_any_place(anywhere: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stray adapters, half of one and JSON are deleted from a disk and from S3 alike."""
    registry = anywhere
    kept = registry.register(BOT, write_adapter(tmp_path / "v"), by="t")[0].digest
    half = registry.artifacts.put_folder(write_adapter(tmp_path / "half", seed=1)).digest
    registry.artifacts.place.fs.rm_file(f"{registry.artifacts.place.path(half)}/adapter_config.json")
    registry.artifacts.put_folder(write_adapter(tmp_path / "stray", seed=2))
    registry.artifacts.put_json([1])
    age(registry)
    later = time.time() + 2 * GRACE_SECONDS
    monkeypatch.setattr("registry.garbage.time.time", lambda: later)
    assert len(collect(registry, dry_run=False).collected) == 3
    assert stored(registry) == {kept}
