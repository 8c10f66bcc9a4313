"""The two routes about the place for weights, through the service's real app and a real Redis."""

from __future__ import annotations

from pathlib import Path

from registry.artifacts import TENSORS
from registry.registry import Registry
from registry.settings import RegistrySettings
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
