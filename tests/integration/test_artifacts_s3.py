"""Weights on S3, by a real S3-compatible server: written once, found by everybody, never served damaged."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.artifacts import CONFIG, TENSORS, ArtifactStore, digest_of_folder
from registry.errors import ArtifactMissing, ArtifactsDown
from tests import s3_server
from tests.peft_folders import write_adapter


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    with s3_server.running() as environment:
        yield environment


@pytest.fixture
def url(s3: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    s3_server.forget_connections()
    yield f"s3://{s3_server.bucket(s3['AWS_ENDPOINT_URL'])}/some/prefix"
    s3_server.forget_connections()


@pytest.fixture
def store(url: str, tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(url, tmp_path / "cache")


def other(store: ArtifactStore, tmp_path: Path, name: str = "other") -> ArtifactStore:
    """A store on another machine: the same place, a cache of its own."""
    return ArtifactStore(store.url, tmp_path / name)


def test_what_one_puts_another_fetches(store: ArtifactStore, tmp_path: Path) -> None:
    """Through S3 alone an adapter and a JSON value reach a machine with an empty cache, byte for byte."""
    folder = write_adapter(tmp_path / "mine")
    there = other(store, tmp_path)
    value = {"items": [1, 2]}

    artifact = store.put_folder(folder)

    assert digest_of_folder(there.fetch(artifact.digest)) == artifact.digest
    assert store.put_folder(folder) == artifact
    assert there.get_json(store.put_json(value)) == value
    assert [(each.digest, each.size) for each in there.place.listing() if each.digest == artifact.digest] == [
        (artifact.digest, artifact.size)
    ]


def test_what_was_missing_a_moment_ago_is_seen_at_once(store: ArtifactStore, tmp_path: Path) -> None:
    """No listing is remembered: what another machine puts after we looked is there at the next look."""
    digest = store.put_folder(write_adapter(tmp_path / "first")).digest
    there = other(store, tmp_path)
    wanted = ArtifactStore(f"memory://{tmp_path.name}", tmp_path / "m").put_folder(
        write_adapter(tmp_path / "2", seed=2)
    )
    assert [each.digest for each in there.place.listing()] == [digest]
    assert not there.has(wanted.digest)
    with pytest.raises(ArtifactMissing):
        there.fetch(wanted.digest)

    subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from registry.artifacts import ArtifactStore;"
            "ArtifactStore(sys.argv[1], sys.argv[2]).put_folder(Path(sys.argv[3]))",
            *(store.url, str(tmp_path / "third"), str(tmp_path / "2")),
        ],
        check=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )

    assert there.has(wanted.digest)
    assert digest_of_folder(there.fetch(wanted.digest)) == wanted.digest
    assert len(there.place.listing()) == 2


@pytest.mark.parametrize("damage", ["flip", "truncate", "config", "config_gone", "tensors_gone", "empty"])
def test_damaged_objects_are_never_served_and_heal(store: ArtifactStore, tmp_path: Path, damage: str) -> None:
    """Same-size-but-wrong bytes, a lost end, a put that died halfway: ``ArtifactMissing``; putting it again heals it."""
    folder = write_adapter(tmp_path / "mine")
    digest = store.put_folder(folder).digest
    fs, path = store.place.fs, store.place.path(digest)
    content = bytearray(fs.cat_file(f"{path}/{TENSORS}"))
    if damage == "flip":
        content[-1] ^= 1
        fs.pipe_file(f"{path}/{TENSORS}", bytes(content))
    elif damage == "truncate":
        fs.pipe_file(f"{path}/{TENSORS}", bytes(content[:-1]))
    elif damage == "empty":
        fs.pipe_file(f"{path}/{TENSORS}", b"")
    elif damage == "config":
        fs.pipe_file(f"{path}/{CONFIG}", b"{}")
    else:
        fs.rm_file(f"{path}/{CONFIG if damage == 'config_gone' else TENSORS}")

    there = other(store, tmp_path)
    with pytest.raises(ArtifactMissing):
        there.fetch(digest)
    assert there.has(digest) is (damage not in ("config_gone", "tensors_gone"))
    assert there.place.actual(digest) != digest

    assert there.put_folder(folder).digest == digest
    assert digest_of_folder(other(store, tmp_path, "third").fetch(digest)) == digest


def test_a_damaged_json_value_is_never_served_and_heals(store: ArtifactStore) -> None:
    """A snapshot of the same size with other bytes is refused, and written again by who has the right ones."""
    digest = store.put_json({"a": 1})
    store.place.fs.pipe_file(f"{store.place.path(digest)}.json", b'{"a":2}')
    with pytest.raises(ArtifactMissing, match="do not match"):
        store.get_json(digest)
    assert store.put_json({"a": 1}) == digest
    assert store.get_json(digest) == {"a": 1}


def test_many_put_and_fetch_at_once(store: ArtifactStore, tmp_path: Path) -> None:
    """Threads with stores of their own put and fetch the same bytes: all get whole folders, one object stays."""
    folder, seen = write_adapter(tmp_path / "mine"), []

    def work(number: int) -> None:
        mine = other(store, tmp_path, f"cache-{number % 3}")
        seen.append(digest_of_folder(mine.fetch(mine.put_folder(folder).digest)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(seen) == 9
    assert len(set(seen)) == 1
    assert len(store.place.listing()) == 1


def _fetch_in_child(store: ArtifactStore, digest: str, answers: multiprocessing.SimpleQueue[str]) -> None:
    answers.put(digest_of_folder(store.fetch(digest)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_reads_through_connections_of_its_own(store: ArtifactStore, tmp_path: Path) -> None:
    """A store that was used before a fork answers in the child, too."""
    digest = store.put_folder(write_adapter(tmp_path / "mine")).digest
    forking = multiprocessing.get_context("fork")
    answers = forking.SimpleQueue()
    child = forking.Process(target=_fetch_in_child, args=(store, digest, answers))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    assert answers.get() == digest


def test_a_place_that_does_not_answer_is_said(url: str, tmp_path: Path) -> None:
    """No bucket, no server: ``ArtifactsDown``, never ``ArtifactMissing`` and no error of a library."""
    nowhere = ArtifactStore("s3://no-such-bucket-of-ours/prefix", tmp_path / "cache")
    with pytest.raises((ArtifactsDown, ArtifactMissing)):
        nowhere.put_folder(write_adapter(tmp_path / "mine"))


def test_the_endpoint_may_come_from_fsspec(s3: dict[str, str], tmp_path: Path) -> None:
    """FSSPEC_S3_ENDPOINT_URL leads to the server as AWS_ENDPOINT_URL does."""
    name = s3_server.bucket(s3["AWS_ENDPOINT_URL"])
    environment = {key: value for key, value in s3.items() if key != "AWS_ENDPOINT_URL"}
    script = (
        "import sys; from registry.artifacts import ArtifactStore; store = ArtifactStore(sys.argv[1], sys.argv[2]);"
        "print(store.get_json(store.put_json([1])))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script, f"s3://{name}/x", str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ
        | environment
        | {"FSSPEC_S3_ENDPOINT_URL": s3["AWS_ENDPOINT_URL"], "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert answer.stdout.strip() == "[1]"
