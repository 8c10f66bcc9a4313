"""Content-addressed bytes: what is stored is what comes back, or nothing does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from registry.artifacts import CONFIG, TENSORS, ArtifactStore, digest_of_folder
from registry.errors import ArtifactMissing, BadInput
from tests.peft_folders import write_adapter


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ArtifactStore]:
    url = str(tmp_path / "place") if request.param == "file" else f"memory://{tmp_path.name}"
    yield ArtifactStore(url, tmp_path / "cache")
    fsspec.filesystem("memory").store.clear()


def test_an_adapter_comes_back_byte_for_byte(store: ArtifactStore, tmp_path: Path) -> None:
    """What is fetched has the digest it was stored under, the same tensors and the same config."""
    folder = write_adapter(tmp_path / "mine")

    artifact = store.put_folder(folder)
    fetched = store.fetch(artifact.digest)

    assert (fetched / TENSORS).read_bytes() == (folder / TENSORS).read_bytes()
    assert json.loads((fetched / CONFIG).read_text()) == json.loads((folder / CONFIG).read_text())
    assert artifact.size == sum(path.stat().st_size for path in fetched.iterdir())
    assert digest_of_folder(fetched) == artifact.digest
    assert artifact.digest.removeprefix("sha256:") in str(fetched)
    assert store.has(artifact.digest)
    assert store.put_folder(folder) == artifact


def test_the_digest_is_of_the_content(store: ArtifactStore, tmp_path: Path) -> None:
    """The spelling of the config and bystanders do not count, its values and the tensors do."""
    first = store.put_folder(write_adapter(tmp_path / "a")).digest
    spelled = write_adapter(tmp_path / "b")
    (spelled / CONFIG).write_text(json.dumps(json.loads((spelled / CONFIG).read_text()), sort_keys=True))
    (spelled / "README.md").write_text("mine")

    assert store.put_folder(spelled).digest == first
    assert store.put_folder(write_adapter(tmp_path / "c", seed=1)).digest != first
    assert store.put_folder(write_adapter(tmp_path / "d", config={"lora_alpha": 9})).digest != first


def test_json_values_come_back(store: ArtifactStore) -> None:
    """Equal values have one digest; what is not there is said."""
    value = {"b": [1, 0.1, None], "a": "caf\u00e9"}

    digest = store.put_json(value)

    assert store.put_json(dict(reversed(value.items()))) == digest
    assert store.get_json(digest) == value
    assert store.has(digest)
    with pytest.raises(ArtifactMissing):
        store.get_json("sha256:" + "0" * 64)


def test_what_is_not_there_is_said(store: ArtifactStore, tmp_path: Path) -> None:
    """A digest that nobody stored is ``ArtifactMissing``, and leaves nothing in the cache."""
    with pytest.raises(ArtifactMissing, match=r"does not hold it\. `shoal artifacts check` says what names it\."):
        store.fetch("sha256:" + "0" * 64)
    assert not store.has("sha256:" + "0" * 64)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@pytest.mark.parametrize("digest", ["../../etc/passwd", "sha256:../x", "sha256:" + "A" * 64, "", "x" * 64])
def test_a_path_is_made_from_a_digest_only(store: ArtifactStore, digest: str) -> None:
    """Whatever is no digest is refused before any path is made."""
    for ask in (store.fetch, store.has, store.get_json):
        with pytest.raises(BadInput):
            ask(digest)


@pytest.fixture
def place(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(f"file://{tmp_path}/place", tmp_path / "cache")


def stored(place: ArtifactStore, tmp_path: Path, digest: str) -> Path:
    name = digest.removeprefix("sha256:")
    return tmp_path / "place" / "sha256" / name[:2] / name[2:4] / name


@pytest.mark.parametrize("damage", ["flip", "truncate", "config", "remove"])
def test_damaged_bytes_are_never_served(place: ArtifactStore, tmp_path: Path, damage: str) -> None:
    """A flipped bit, a lost end, another config or a lost file: ``ArtifactMissing``, and storing it again heals it."""
    folder = write_adapter(tmp_path / "mine")
    digest = place.put_folder(folder).digest
    tensors = stored(place, tmp_path, digest) / TENSORS
    content = bytearray(tensors.read_bytes())
    if damage == "flip":
        content[-1] ^= 1
        tensors.write_bytes(content)
    elif damage == "truncate":
        tensors.write_bytes(content[:-1])
    elif damage == "config":
        (tensors.parent / CONFIG).write_text("{}")
    else:
        tensors.unlink()

    with pytest.raises(ArtifactMissing):
        place.fetch(digest)

    assert place.put_folder(folder).digest == digest
    assert digest_of_folder(place.fetch(digest)) == digest


def test_a_damaged_copy_in_the_cache_is_fetched_anew(place: ArtifactStore, tmp_path: Path) -> None:
    """Somebody wrote into the cache: the next fetch notices, in this process and in another."""
    digest = place.put_folder(write_adapter(tmp_path / "mine")).digest
    cached = place.fetch(digest)
    for reader in (place, ArtifactStore(place.url, tmp_path / "cache")):
        with (cached / TENSORS).open("r+b") as file:
            file.seek(-1, 2)
            file.write(b"\x99")

        assert digest_of_folder(reader.fetch(digest)) == digest


def test_the_cache_serves_without_the_place(place: ArtifactStore, tmp_path: Path) -> None:
    """What this machine has verified it can serve while the artifact place is away."""
    digest = place.put_folder(write_adapter(tmp_path / "mine")).digest
    place.fetch(digest)
    (tmp_path / "place").rename(tmp_path / "away")

    fresh = ArtifactStore(str(tmp_path / "place"), tmp_path / "cache")

    assert digest_of_folder(fresh.fetch(digest)) == digest


def test_many_fetch_and_store_at_once(place: ArtifactStore, tmp_path: Path) -> None:
    """Threads that store and fetch the same bytes through several stores all get whole folders; nothing is left over."""
    folder, seen = write_adapter(tmp_path / "mine"), []

    def work() -> None:
        store = ArtifactStore(place.url, tmp_path / "cache")
        seen.append(digest_of_folder(store.fetch(store.put_folder(folder).digest)))

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(seen) == 16
    assert len(set(seen)) == 1
    folders = [path for path in tmp_path.glob("*/sha256/*/*/*") if path.is_dir()]
    assert len(folders) == 2
    assert not list((tmp_path / "place" / "arriving").iterdir())


def test_export_writes_what_peft_loads(store: ArtifactStore, tmp_path: Path) -> None:
    """An exported folder holds the two files; a folder that holds an adapter already is not overwritten."""
    digest = store.put_folder(write_adapter(tmp_path / "mine")).digest

    folder = store.export(digest, tmp_path / "out" / "there")

    assert digest_of_folder(folder) == digest
    with pytest.raises(BadInput, match="empty folder"):
        store.export(digest, folder)
