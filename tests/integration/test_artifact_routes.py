"""The routes about the place for weights and about the engine, through the service's real app and a real Redis."""

from __future__ import annotations

import shutil
from pathlib import Path

from registry.artifacts import TENSORS
from registry.registry import Registry
from registry.settings import RegistrySettings
from service.settings import ServiceSettings
from tests.peft_folders import write_adapter
from tests.served_app import serving


async def test_check_and_collect_answer_what_the_registry_finds(
    registry: Registry, registry_settings: RegistrySettings, tmp_path: Path
) -> None:
    """A damaged version is named, bytes without a record are young; a grace below a minute is refused."""
    version, _ = registry.register("bot", write_adapter(tmp_path / "one"), by="test")
    registry.artifacts.put_folder(write_adapter(tmp_path / "two", seed=2))
    stored = Path(registry.artifacts.place.path(version.digest)) / TENSORS
    stored.write_bytes(stored.read_bytes()[:-1])
    async with serving(registry_settings, tmp_path / "home") as shoal:
        checked = (await shoal.post("/api/artifacts/check")).json()
        assert checked["findings"] == [{"digest": version.digest, "state": "damaged", "named_by": ["bot@1"]}]
        collected = (await shoal.post("/api/artifacts/gc", json={"dry_run": True})).json()
        assert (collected["dry_run"], collected["collected"], collected["young"]) == (True, [], 1)
        refused = await shoal.post("/api/artifacts/gc", json={"grace_seconds": 1})
        assert refused.status_code == 422
        assert "grace_seconds" in refused.json()["error"]["message"]


async def test_a_version_whose_bytes_are_lost_has_failed_its_requests(
    registry: Registry, registry_settings: RegistrySettings, tmp_path: Path
) -> None:
    """On trial, it fails everybody it was chosen for: each is a request of it and an error. A version that is not there, and one
    that is retired, have none."""
    for number in range(3):
        version, _ = registry.register("bot", write_adapter(tmp_path / f"v{number}", seed=number), by="test")
    registry.promote("bot", 1, by="test")
    registry.start_canary("bot", 3, 1.0, by="test")
    registry.retire("bot", 2, by="test")
    shutil.rmtree(str(registry.artifacts.place.path(version.digest)))
    async with serving(registry_settings, tmp_path / "home") as shoal:
        for model, status in (("bot@1", 200), ("bot", 503), ("bot@3", 503), ("bot@2", 409), ("bot@9", 404)):
            body = {"model": model, "prompt": "hello", "max_tokens": 1}
            answer = await shoal.post("/v1/completions", json=body)
            assert answer.status_code == status, answer.text
    counted = registry.figures.read("bot")
    assert {version: (of["requests"], of["errors"]) for version, of in counted.items()} == {1: (1, 0), 3: (2, 2)}


async def test_the_engine_is_asked_what_it_holds(
    registry: Registry, registry_settings: RegistrySettings, tmp_path: Path
) -> None:
    """The answer is the engine's own, not what the replica believes; the limit is the one that the engine was started with."""
    registry.register("bot", write_adapter(tmp_path / "one"), by="test")
    registry.promote("bot", 1, by="test")
    async with serving(registry_settings, tmp_path / "home") as shoal:
        told = (await shoal.get("/api/status/engine")).json()
        assert (told["places"], told["holds"]) == (ServiceSettings().max_loras, ["bot@1"])


async def test_the_status_names_what_has_no_place(
    registry: Registry, registry_settings: RegistrySettings, tmp_path: Path
) -> None:
    """One place stays free: of a champion and three pinned versions the last has none of four."""
    for number in range(4):
        registry.register("bot", write_adapter(tmp_path / f"v{number}", seed=number), by="test")
    registry.promote("bot", 1, by="test")
    for version in (2, 3, 4):
        registry.pin("bot", version, by="test")
    async with serving(registry_settings, tmp_path / "home") as shoal:
        told = (await shoal.get("/api/status")).json()
        assert told["without_place"] == ["bot@4"]
        assert "bot@4" not in told["replicas"][0]["holds"]
