"""Weights in by address and out as a folder or an archive: the command line, a real service, a hub and S3 of our own."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pytest

from registry.artifacts import digest_of_folder
from registry.settings import RegistrySettings
from shoal.cli.app import run
from shoal.client import Client
from shoal.errors import ApiError
from starter.pack import load_pack
from tests import hub_server, s3_server
from tests.stub_service import StubService, running

PACK = load_pack()
SHIFT, SORT, SWAP = (PACK.experts[name] for name in ("shift", "sort", "swap"))


@dataclass
class Scene:
    """A service on the starter's base, a hub, a bucket that imports may come from and one that they may not."""

    url: str
    hub: hub_server.Hub
    s3: dict[str, str]
    bucket: str
    home: Path

    def put(self, source: Path, url: str) -> None:
        fs = fsspec.filesystem("s3", use_listings_cache=False)
        for file in [source] if source.is_file() else source.iterdir():
            fs.put_file(str(file), url if source.is_file() else f"{url}/{file.name}")


@pytest.fixture(scope="module")
def scene(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    home = tmp_path_factory.mktemp("imports")
    with hub_server.running() as hub, s3_server.running() as s3, pytest.MonkeyPatch.context() as environment:
        for name, value in s3.items():
            environment.setenv(name, value)
        s3_server.forget_connections()
        bucket = s3_server.bucket(s3["AWS_ENDPOINT_URL"])
        registry = RegistrySettings(
            redis_url=redis_url, namespace=f"imports-{os.getpid()}", artifacts_url=str(home / "artifacts")
        )
        service = StubService(
            registry,
            home / "service",
            HF_ENDPOINT=hub.url,
            HF_HUB_OFFLINE="0",
            SHOAL_BASE=str(PACK.base),
            SHOAL_IMPORT_FROM=f"hf://,s3://{bucket}/theirs/,s3://no-such-bucket-here/",
        )
        with running(service):
            yield Scene(service.url, hub, s3, bucket, home)
        s3_server.forget_connections()


def shoal(scene: Scene, capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    """What a command that must succeed prints, as JSON where it asks for it."""
    code = run([*words, "--url", scene.url])
    told = capsys.readouterr()
    assert code == 0, told.err
    return json.loads(told.out) if "--json" in words else told.out


def test_an_adapter_comes_from_the_hub(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    """`shoal import NAME hf://org/name`: champion at once; version, history and lineage name the commit it came from."""
    scene.hub.repositories["org/shift"] = SHIFT
    answer = shoal(scene, capsys, "import", "hub-bot", "hf://org/shift@v1", "--label", "shift", "--json")
    resolved = f"hf://org/shift@{hub_server.COMMIT}"
    assert (answer["new"], answer["version"]["source"]) == (True, resolved)
    assert answer["version"]["digest"] == digest_of_folder(SHIFT)
    assert resolved in shoal(scene, capsys, "lineage", "hub-bot").replace("\n", "").replace(" ", "")
    with Client(scene.url) as client:
        assert client.adapter("hub-bot")["rollout"]["champion"] == 1
        registered = next(event for event in client.history("hub-bot") if event["kind"] == "registered")
        assert registered["details"]["source"] == resolved
        again = client.import_version("hub-bot", "hf://org/shift")
        assert (again["new"], again["version"]["version"]) == (False, 1)


def test_a_folder_and_an_archive_come_from_s3(scene: Scene, tmp_path: Path) -> None:
    """`s3://` addresses below the listed prefix: a PEFT folder, and a tar.gz of one."""
    scene.put(SORT, f"s3://{scene.bucket}/theirs/sort")
    with tarfile.open(tmp_path / "swap.tar.gz", "w:gz") as tar:
        tar.add(SWAP, arcname="swap")
    scene.put(tmp_path / "swap.tar.gz", f"s3://{scene.bucket}/theirs/swap.tar.gz")
    with Client(scene.url) as client:
        for name, folder in (("sort", SORT), ("swap.tar.gz", SWAP)):
            source = f"s3://{scene.bucket}/theirs/{name}"
            version = client.import_version("s3-bot", source)["version"]
            assert (version["digest"], version["source"]) == (digest_of_folder(folder), source)


def test_nothing_is_registered_where_an_import_fails(scene: Scene, tmp_path: Path) -> None:
    """Not allowed, not there, not an adapter, away: each its status, a message with the remedy, and no adapter left behind."""
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "adapter_config.json").write_text((SHIFT / "adapter_config.json").read_text())
    (bad / "adapter_model.safetensors").write_bytes(b"\x00" * 64)
    scene.hub.repositories["org/bad"] = bad
    refused = [
        (f"s3://{scene.bucket}/others/sort", 422, "source_refused", "SHOAL_IMPORT_FROM"),
        (f"file://{SHIFT}", 422, "source_refused", "SHOAL_IMPORT_FROM"),
        (f"s3://{scene.bucket}/theirs/none", 422, "source_refused", "There is no adapter"),
        ("s3://no-such-bucket-here/x", 422, "source_refused", "There is no adapter"),
        ("hf://org/none", 422, "source_refused", "HF_TOKEN"),
        ("hf://org/bad", 422, "adapter_refused", "safetensors"),
    ]
    with Client(scene.url) as client:
        for source, status, code, told in refused:
            with pytest.raises(ApiError, match=told) as caught:
                client.import_version("nothing-bot", source)
            assert (caught.value.status, caught.value.code) == (status, code), source
        assert "nothing-bot" not in [adapter["name"] for adapter in client.adapters()]


def test_an_offline_service_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HF_HUB_OFFLINE is the operator's word: a reason at once, no request. vLLM's engines do not set it for them."""
    from huggingface_hub import constants

    from registry.errors import SourceRefused
    from registry.hub import download
    from service.engines.vllm import environment

    assert not any("OFFLINE" in name for name in environment())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SourceRefused, match="HF_HUB_OFFLINE"):
        download("hf://org/shift", tmp_path, max_bytes=10**6)


def test_out_and_in_again_with_the_same_bytes(scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Folder -> import -> `export --to x.tar` -> import, and -> export to a folder: one digest, and peft loads it."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    shoal(scene, capsys, "import", "round-bot", str(SHIFT))
    archive, folder = tmp_path / "out/round.tar", tmp_path / "folder"
    shoal(scene, capsys, "export", "round-bot@1", "--to", str(archive))
    assert run(["export", "round-bot@1", "--to", str(archive), "--url", scene.url]) == 1
    assert "nothing is overwritten" in " ".join(capsys.readouterr().err.split())
    answer = shoal(scene, capsys, "import", "round-two", str(archive), "--json")
    assert answer["version"]["digest"] == digest_of_folder(SHIFT)
    shoal(scene, capsys, "export", "round-two", str(folder))
    assert digest_of_folder(folder) == digest_of_folder(SHIFT)
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    for written in (folder, unpacked):
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(PACK.base), written)
        assert any(weight.abs().sum() > 0 for name, weight in model.named_parameters() if "lora_B" in name)
