"""Hostile uploads through the service's real route: the status, the body, and nothing left."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest

from registry.artifacts import CONFIG, TENSORS
from registry.policy import Policy
from registry.registry import Registry
from registry.settings import RegistrySettings
from tests.hostile_archives import Build, adapter_files, config, gzipped, tarred, zip_with, zipped
from tests.peft_folders import write_base
from tests.served_app import serving

REFUSED: dict[str, Build] = {
    "archive_invalid": lambda files: b"<html>",
    "archive_unsafe_path": zip_with("../../x"),
    "archive_bomb": lambda files: gzipped(tarred({"zeros.md": bytes(18 << 20)})),
    "not_safetensors": lambda files: tarred({CONFIG: files[CONFIG], "adapter_model.bin": b"x"}),
    "unsupported": config(use_dora=True),
    "truncated": lambda files: zipped({**files, TENSORS: files[TENSORS][:-1]}),
    "shape": lambda files: zipped(adapter_files(width=16)),
}


async def test_a_hostile_upload_is_answered_by_its_reason(
    registry: Registry, registry_settings: RegistrySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """422 with the reason in the one error body, 413 for too many bytes; then the same adapter, sound, is taken."""
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    settings = registry_settings.model_copy(update={"base": str(write_base(tmp_path / "base")), "max_upload_mb": 32})
    async with serving(settings, tmp_path / "home") as shoal:
        route = "/api/adapters/bot/versions"
        for reason, build in REFUSED.items():
            answer = await shoal.post(route, files={"archive": ("../../evil.zip", build(adapter_files()))})
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["details"]["reason"]) == (422, "adapter_refused", reason)
            assert error["message"]
            assert str(scratch) not in answer.text
        answer = await shoal.post(route, files={"archive": ("big.tar", bytes(33_000_000))})
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")

        assert registry.adapters() == []
        assert list(scratch.iterdir()) == []
        assert not list((tmp_path / "artifacts").rglob("*.safetensors"))

        answer = await shoal.post(route, files={"archive": ("mine.zip", zipped(adapter_files()))})
        assert (answer.status_code, answer.json()["new"]) == (201, True)
    assert list(scratch.iterdir()) == []


async def test_the_first_version_is_champion_whatever_moved_before_it(
    registry: Registry, registry_settings: RegistrySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A policy was set before the upload, and another one comes while the replicas load the version: it answers all the same."""
    settings = registry_settings.model_copy(update={"base": str(write_base(tmp_path / "base"))})
    asked = Registry.ready

    def meanwhile(self: Registry, *args: Any, **how: Any) -> Any:
        found = asked(self, *args, **how)
        if registry.rollout("bot").revision == 1:
            registry.set_policy("bot", Policy(promote=False), by="ann")
        return found

    monkeypatch.setattr(Registry, "ready", meanwhile)
    async with serving(settings, tmp_path / "home") as shoal:
        await shoal.post("/api/adapters", json={"name": "bot"})
        assert (await shoal.put("/api/adapters/bot/policy", json={"policy": {}})).status_code == 200
        answer = await shoal.post("/api/adapters/bot/versions", files={"archive": ("a.zip", zipped(adapter_files()))})
        assert answer.status_code == 201
        assert [(event.kind, event.revision) for event in registry.history("bot", limit=2)] == [
            ("promoted", 3),
            ("policy_changed", 2),
        ]
        said = await shoal.post("/v1/completions", json={"model": "bot", "prompt": "x", "max_tokens": 1})
        assert (said.status_code, said.headers["x-shoal-version"]) == (200, "bot@1")
