"""What `shoal up` decides before it starts anything: settings, processes, the starter pack, Redis."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from fastapi import Response

from shoal import redis_server, up
from shoal.client import Client
from shoal.errors import UpError
from shoal.processes import ProcessSpec, environment, processes
from shoal.settings import UpSettings
from shoal.starter_pack import StarterPack
from tests.unit import fake_shoal

EVERYWHERE = "0.0.0.0"  # noqa: S104  # refused, or looked at


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SHOAL_REDIS_URL", "SHOAL_API_KEY", "SHOAL_HOME", "SHOAL_BASE", "SHOAL_PORT", "SHOAL_HOST"):
        monkeypatch.delenv(name, raising=False)


def test_an_option_goes_before_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_PORT", "4000")
    monkeypatch.setenv("SHOAL_LOG_LEVEL", "debug")
    settings = UpSettings.load(port=5000, log_level=None)
    assert (settings.port, settings.log_level) == (5000, "debug")


@pytest.mark.parametrize(
    ("name", "value"),
    [("port", "99999"), ("log_level", "loud"), ("base", "./no-such-folder"), ("base", "a/b/c"), ("colour", "red")],
)
def test_a_bad_value_stops_the_start_and_is_named(name: str, value: str) -> None:
    with pytest.raises(UpError, match=f"SHOAL_{name.upper()}"):
        UpSettings.load(**{name: value})


def test_paths_do_not_depend_on_where_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder becomes absolute; what is no folder is a Hugging Face id."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    assert UpSettings.load(base="model").base == str(tmp_path / "model")
    assert UpSettings.load(base="org/name").base == "org/name"
    assert UpSettings().home == tmp_path / ".shoal"


@pytest.mark.parametrize(
    ("host", "loopback", "url"),
    [
        ("127.0.0.1", True, "http://127.0.0.1:3000"),
        ("localhost", True, "http://localhost:3000"),
        ("::1", True, "http://[::1]:3000"),
        (EVERYWHERE, False, "http://127.0.0.1:3000"),
        ("::", False, "http://[::1]:3000"),
        ("10.0.0.7", False, "http://10.0.0.7:3000"),
    ],
)
def test_an_address_is_loopback_or_not(host: str, loopback: bool, url: str) -> None:
    settings = UpSettings.load(host=host)
    assert (settings.loopback, settings.url) == (loopback, url)


def test_an_open_address_without_a_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UpError, match="SHOAL_API_KEY"):
        up.Up(UpSettings.load(host=EVERYWHERE, home=tmp_path / "home")).start()
    assert not (tmp_path / "home").exists()


def test_the_table_names_every_process(tmp_path: Path) -> None:
    """Two workers, one queue each, the clock, and the service; docker-compose.yml says the same."""
    table = {spec.name: spec for spec in processes(UpSettings.load(home=tmp_path, port=3456))}
    assert list(table) == ["control", "score", "beat", "service"]
    assert " ".join(table["control"].command[1:]) == (
        "-m celery -A swarm_worker.celery_app worker -P solo --without-mingle --without-gossip"
        " --loglevel info -Q control -n control@%h"
    )
    assert "-Q score" in " ".join(table["score"].command)
    assert f"-s {tmp_path}/beat-schedule --pidfile=" in " ".join(table["beat"].command)
    assert " ".join(table["service"].command[1:]) == (
        "-m bentoml serve service.app:ShoalService --host 127.0.0.1 --port 3456 --timeout-graceful-shutdown 20"
    )
    assert table["service"].stop_seconds == 25.0
    assert max(spec.layer for spec in table.values()) == table["service"].layer


def test_the_environment_keeps_what_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other ``SHOAL_*`` pass through; the key reaches the processes; nothing phones home."""
    monkeypatch.setenv("SHOAL_MAX_LORA_RANK", "32")
    settings = UpSettings.load(home=tmp_path, api_key="s3cret", artifacts_url="s3://bucket/x")
    given = environment(settings, base="org/name", redis_url="redis://r")
    assert given["SHOAL_MAX_LORA_RANK"] == "32"
    assert given["SHOAL_API_KEY"] == "s3cret"
    assert given["SHOAL_ARTIFACTS_URL"] == "s3://bucket/x"
    assert given["SHOAL_CACHE_DIR"] == str(tmp_path / "cache")
    assert given["VLLM_NO_USAGE_STATS"] == given["DO_NOT_TRACK"] == given["BENTOML_DO_NOT_TRACK"] == "1"


def test_what_is_not_installed_is_named(tmp_path: Path) -> None:
    spec = ProcessSpec("score", (sys.executable,), needs=("no_such_module",))
    with pytest.raises(UpError, match=r"missing: no_such_module.*pip install"):
        up.Up(UpSettings.load(home=tmp_path, base="a/b"), table=lambda settings: [spec]).start()


def pack_in(folder: Path, *experts: str) -> Path:
    for name in ("base", *(f"experts/{expert}" for expert in experts)):
        (folder / name).mkdir(parents=True)
        (folder / name / "adapter_config.json").write_text("{}")
    pack = {"adapter": "support-bot", "base": "base", "experts": list(experts), "blend": list(experts)}
    (folder / "pack.json").write_text(json.dumps(pack))
    return folder


def test_the_starter_pack_is_imported_in_order_and_once(tmp_path: Path) -> None:
    """One line each; what is registered is not sent again, so that an import that was interrupted goes on."""
    pack = StarterPack.read(pack_in(tmp_path, "reverse", "dedup", "swap"))
    told: list[str] = []
    versions: list[dict[str, object]] = []

    def register(asked: fake_shoal.Asked) -> Response:
        label = next(name for name in ("reverse", "dedup", "swap") if f"\r\n\r\n{name}\r\n".encode() in asked.body)
        versions.append({"version": len(versions) + 1, "label": label})
        return Response(json.dumps({"version": versions[-1], "new": True}), 201, media_type="application/json")

    with fake_shoal.serving() as fake, Client(fake.url) as client:
        fake.answers["GET /api/adapters"] = lambda asked: {"adapters": [{"name": "support-bot"}] if versions else []}
        fake.answers["GET /api/adapters/support-bot/versions"] = lambda asked: {"versions": versions}
        fake.answers["POST /api/adapters"] = fake_shoal.adapter()
        fake.answers["POST /api/adapters/support-bot/versions"] = register
        pack.imported(client, told.append)
        assert [version["label"] for version in versions] == ["reverse", "dedup", "swap"]
        assert told[0] == "imported reverse as support-bot@1"
        pack.imported(client, told.append)
        assert len(told) == 3
        versions.pop(1)
        pack.imported(client, told.append)
        assert told[3:] == ["imported dedup as support-bot@3"]


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"adapter": "a", "base": "base", "experts": ["gone"], "blend": []}']
)
def test_a_pack_that_is_not_whole_says_what_to_do(tmp_path: Path, content: str) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "pack.json").write_text(content)
    with pytest.raises(UpError, match="shoal up --base"):
        StarterPack.read(tmp_path)


def test_a_missing_redis_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_server.shutil, "which", lambda *given, **more: None)
    with pytest.raises(UpError, match="SHOAL_REDIS_URL"):
        redis_server.RedisServer.configured(tmp_path)


def test_a_redis_that_would_start_empty_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis 6 does not see the files that Redis 7 wrote, and would begin without them."""
    (tmp_path / "redis" / "appendonlydir").mkdir(parents=True)
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho Redis server v=6.2.14 sha=0\n")
    old.chmod(0o755)
    monkeypatch.setattr(redis_server, "found", lambda: str(old))
    with pytest.raises(UpError, match="Redis 7"):
        redis_server.RedisServer.configured(tmp_path)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:s3cret@host:6379/0", "redis://host:6379/0"),
        ("redis://user:s3cret@host/0", "redis://host/0"),
        ("redis://host/0", "redis://host/0"),
        ("redis://:s3/cr@et@host/0", "redis://host/0"),
    ],
)
def test_a_password_is_not_printed(url: str, shown: str) -> None:
    assert redis_server.without_password(url) == shown
