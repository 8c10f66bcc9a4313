"""Reading versions and weights over HTTP: the key is sent, and what answers is not trusted."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi import Response

from registry.canonical import digest
from registry.errors import AdapterRefused, BadInput, ShoalError
from registry.records import Version, now
from swarm_worker.versions_api import ServiceTrouble, VersionsApi
from tests.unit import fake_shoal
from tests.unit.fake_shoal import FakeShoal

VERSION = Version(
    adapter="bot", version=1, digest=digest("x"), rank=1, size=1000, created_at=now(), created_by="t", label="e"
)
ARTIFACT = "GET /api/adapters/bot/versions/1/artifact"


@pytest.fixture(scope="module")
def server() -> Iterator[FakeShoal]:
    with fake_shoal.serving() as fake:
        yield fake


@pytest.fixture
def fake(server: FakeShoal, monkeypatch: pytest.MonkeyPatch) -> FakeShoal:
    server.answers, server.asked = {}, []
    monkeypatch.setenv("SHOAL_URL", server.url)
    monkeypatch.delenv("SHOAL_API_KEY", raising=False)
    return server


@pytest.fixture
def api(fake: FakeShoal) -> Iterator[VersionsApi]:
    with VersionsApi() as opened:
        yield opened


def tar_of(**members: bytes) -> Response:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return Response(packed.getvalue(), media_type="application/x-tar")


def test_the_key_is_sent(fake: FakeShoal, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that is given, else that of the environment; one that no header can carry is refused."""
    fake.answers["GET /api/adapters/bot"] = {"rollout": {"champion": 3}}
    with VersionsApi(api_key="s3cret") as api:
        assert api.champion("bot") == 3
    monkeypatch.setenv("SHOAL_API_KEY", "from-env")
    with VersionsApi() as api:
        api.champion("bot")
    assert [asked.headers["authorization"] for asked in fake.asked] == ["Bearer s3cret", "Bearer from-env"]
    with pytest.raises(BadInput, match="SHOAL_API_KEY"):
        VersionsApi(api_key="ключ")


def test_a_version_is_read_and_its_weights_unpacked(fake: FakeShoal, api: VersionsApi, tmp_path: Path) -> None:
    """A name is quoted into the path, never joined to it."""
    fake.answers["GET /api/adapters/bot/versions/1"] = VERSION.model_dump(mode="json")
    fake.answers[ARTIFACT] = tar_of(**{"bot-1/adapter_config.json": b"{}", "bot-1/adapter_model.safetensors": b"x"})
    assert api.version("bot", 1) == VERSION
    assert (api.fetch(VERSION, tmp_path / "into") / "adapter_model.safetensors").read_bytes() == b"x"
    with pytest.raises(ServiceTrouble):
        api.version("../bot", 1)
    assert fake.asked[-1].path != "/api/bot/versions/1"


def refused(call: Callable[[], object]) -> ShoalError:
    with pytest.raises(ShoalError) as problem:
        call()
    assert "\n" not in problem.value.message
    return problem.value


def test_what_is_not_shoal_or_refuses_is_one_line(fake: FakeShoal, api: VersionsApi, tmp_path: Path) -> None:
    """A proxy's page, JSON that is no version, a refusal with its own code, and no champion."""
    path = "GET /api/adapters/bot/versions/1"
    for answer in (Response("<html>"), Response("<html>", status_code=502), ["list"], {"version": 1}):
        fake.answers[path] = answer
        assert "is not Shoal's API" in refused(lambda: api.version("bot", 1)).message
    fake.answers[ARTIFACT] = fake_shoal.refusal(500, "artifact_missing", "It is gone.")
    gone = refused(lambda: api.fetch(VERSION, tmp_path / "into"))
    assert (gone.code, gone.status, gone.message) == ("artifact_missing", 500, "It is gone.")
    fake.answers["GET /api/adapters/bot"] = {"rollout": {"champion": None}}
    assert "'bot' has no champion now" in refused(lambda: api.champion("bot")).message


def test_no_more_is_taken_than_the_version_has_and_nothing_outside_the_folder(
    fake: FakeShoal, api: VersionsApi, tmp_path: Path
) -> None:
    """An endless download, a member that leads out: refused, and nothing of it stays."""
    fake.answers[ARTIFACT] = Response(b"x" * 4_000_000)
    assert "more than its 1000 bytes" in refused(lambda: api.fetch(VERSION, tmp_path / "into")).message
    fake.answers[ARTIFACT] = tar_of(**{"bot-1/adapter_config.json": b"{}", "../out": b"x"})
    assert isinstance(refused(lambda: api.fetch(VERSION, tmp_path / "into")), AdapterRefused)
    assert list(tmp_path.iterdir()) == []
