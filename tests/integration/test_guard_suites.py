"""Suites and guards through the service's real app and a real Redis, kept by collections and backups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from registry.adaptation import begin
from registry.artifact_check import check
from registry.backup import back_up
from registry.errors import BadInput
from registry.garbage import collect
from registry.guard_policy import GuardPolicy
from registry.policy import Policy
from registry.records import RunSpec
from registry.registry import Registry
from registry.restore import restore
from registry.settings import RegistrySettings
from registry.suites import Suite
from tests.integration.test_policy import BOT, an_adapter, give
from tests.served_app import serving

PATH = f"/api/adapters/{BOT}"


def suite(items: int, more: str = "") -> dict[str, object]:
    asked = [{"id": f"q{n}", "prompt": f"{n} + {n}{more}", "good": str(2 * n)} for n in range(items)]
    return {"kind": "task", "utility": "numeric", "items": asked}


async def test_a_suite_is_kept_named_and_asked_for(
    registry: Registry, registry_settings: RegistrySettings, tmp_path: Path
) -> None:
    """Put, put again, list, show, made a guard of, and removed only when no policy names it; what is wrong is named."""
    an_adapter(registry, tmp_path)
    async with serving(registry_settings, tmp_path / "home") as shoal:
        first = await shoal.put(f"{PATH}/guards/sums", json={"suite": suite(100)})
        assert (first.status_code, first.json()["new"]) == (201, True)
        again = await shoal.put(f"{PATH}/guards/sums", json={"suite": suite(100)})
        assert (again.status_code, again.json()["new"]) == (200, False)
        assert again.json()["guard"]["digest"] == first.json()["guard"]["digest"]

        wrong = {
            "nothing": [{"suite": "nothing", "tolerance": 0.1}],
            "too few to show": [{"suite": "sums", "tolerance": 0.01}],
            "twice": [{"suite": "sums", "tolerance": 0.1}] * 2,
            "there are suite, tolerance, level": [{"suite": "sums", "tolerence": 0.1}],
        }
        for told, guards in wrong.items():
            refused = await shoal.put(f"{PATH}/policy", json={"policy": {"guards": guards}})
            assert refused.status_code == 422
            assert told in refused.json()["error"]["message"]

        policy = {"guards": [{"suite": "sums", "tolerance": 0.05}]}
        assert (await shoal.put(f"{PATH}/policy", json={"policy": policy})).status_code == 200
        (listed,) = (await shoal.get(f"{PATH}/guards")).json()["guards"]
        assert (listed["name"], listed["items"], listed["tolerance"], listed["utility"]) == (
            "sums",
            100,
            0.05,
            "numeric",
        )
        fewer = await shoal.put(f"{PATH}/guards/sums", json={"suite": suite(5)})
        assert fewer.status_code == 422  # the policy asks of it what five items cannot show
        assert (await shoal.delete(f"{PATH}/guards/sums")).status_code == 409
        await shoal.put(f"{PATH}/policy", json={"policy": {}})
        shown = (await shoal.get(f"{PATH}/guards/sums")).json()
        assert shown["suite"]["items"][3]["good"] == "6"
        assert (await shoal.delete(f"{PATH}/guards/sums")).status_code == 200
        gone = await shoal.get(f"{PATH}/guards/sums")
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "suite_unknown")
        bad = await shoal.put(f"{PATH}/guards/Sums!", json={"suite": suite(5)})
        assert bad.status_code == 422


async def test_a_policy_that_was_set_is_answered_as_the_first_time(
    registry: Registry, registry_settings: RegistrySettings, tmp_path: Path
) -> None:
    """Also where what it names has gone since; a stale one and another one under its id are told so before that is looked at."""
    an_adapter(registry, tmp_path)
    async with serving(registry_settings, tmp_path / "home") as shoal:

        async def put(policy: dict[str, object], **how: object) -> tuple[int, dict[str, Any]]:
            answer = await shoal.put(f"{PATH}/policy", json={"policy": policy, **how})
            return answer.status_code, answer.json()

        await shoal.put(f"{PATH}/guards/sums", json={"suite": suite(100)})
        guarded = {"guards": [{"suite": "sums", "tolerance": 0.05}]}
        first = await put(guarded, operation_id="guard it")
        assert first[0] == 200
        assert (await put({}))[0] == 200
        assert (await shoal.delete(f"{PATH}/guards/sums")).status_code == 200

        assert await put(guarded, operation_id="guard it") == first
        assert (await put(guarded))[0] == 422
        nowhere: dict[str, object] = {"recording": {"redact": "nowhere"}}
        assert (await put(nowhere))[1]["error"]["details"]["field"] == "recording.redact"
        for gone in (guarded, nowhere):
            status, told = await put(gone, expected_revision=0)
            assert (status, told["error"]["code"]) == (409, "rollout_moved")
        status, told = await put(nowhere, operation_id="guard it")
        assert (status, told["error"]["code"]) == (409, "operation_reused")
        assert (await shoal.get(f"{PATH}/policy")).json()["policy"]["guards"] == []


def test_a_run_keeps_the_suite_that_it_began_with(registry: Registry, tmp_path: Path) -> None:
    """Other items under the name are for the next run; a policy that names a digest keeps that one."""
    an_adapter(registry, tmp_path)
    give(registry, 100)
    first, _ = registry.suites.put(BOT, "sums", Suite.read(suite(100)), by="ann")
    guards = (GuardPolicy(suite="sums", tolerance=0.1), GuardPolicy(suite=first.digest, tolerance=0.2))
    registry.set_policy(BOT, Policy(guards=guards), by="ann")
    run = begin(registry, RunSpec(adapter=BOT), by="test")
    second, _ = registry.suites.put(BOT, "sums", Suite.read(suite(100, " = ?")), by="ann")
    assert [(guard.digest, guard.tolerance) for guard in registry.runs.get(run.id).guards] == [
        (first.digest, 0.1),
        (first.digest, 0.2),
    ]
    registry.runs.cancel(run.id, outcome="test")
    later = begin(registry, RunSpec(adapter=BOT), by="test")
    assert [guard.digest for guard in later.guards] == [second.digest, first.digest]
    with pytest.raises(BadInput, match="'guards'"):
        registry.set_policy(BOT, Policy(guards=(GuardPolicy(suite="sha256:" + "0" * 64, tolerance=0.1),)), by="ann")


def test_suites_outlive_a_collection_and_a_restore(
    registry: Registry, registry_settings: RegistrySettings, tmp_path: Path
) -> None:
    """What a name or a run stands for is no garbage, is checked with the weights, and comes back from a backup."""
    an_adapter(registry, tmp_path)
    ref, _ = registry.suites.put(BOT, "sums", Suite.read(suite(100)), by="ann")
    give(registry, 100)
    registry.set_policy(BOT, Policy(guards=(GuardPolicy(suite="sums", tolerance=0.1),)), by="ann")
    begin(registry, RunSpec(adapter=BOT), by="test")
    collect(registry, dry_run=False, grace=0.0)
    assert registry.suites.read(ref.digest).names[0] == "q0"
    back_up(registry, tmp_path / "shoal.tar")
    settings = registry_settings.model_copy(
        update={"namespace": f"{registry_settings.namespace}-b", "artifacts_url": str(tmp_path / "other")}
    )
    other = Registry.open(settings)
    try:
        restore(other, tmp_path / "shoal.tar", by="test")
        assert other.suites.list(BOT) == [ref]
        assert other.suites.read(ref.digest) == Suite.read(suite(100))
        assert check(other).findings == ()
    finally:
        other.close()
