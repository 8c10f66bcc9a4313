"""Snapshots of a real registry: the same feedback gives the same name, and a run may be on an earlier one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from registry.adaptation import begin, frozen_for, stored_snapshot
from registry.errors import BadInput, SnapshotUnknown, TooLittleFeedback
from registry.policy import Policy
from registry.records import Feedback, Run, RunOptions, RunSpec
from registry.registry import Registry
from registry.settings import RegistrySettings
from registry.snapshot_filter import SnapshotFilter
from tests.peft_folders import write_adapter
from tests.served_app import serving

BOT = "bot"
AT = datetime(2026, 1, 1, tzinfo=UTC)


def an_adapter(registry: Registry, tmp_path: Path, name: str = BOT) -> None:
    for number in range(2):
        registry.register(name, write_adapter(tmp_path / f"{name}-{number}", seed=number), by="test")
    registry.promote(name, 1, by="test")


def give(registry: Registry, n: int, first: int = 0, rater: str = "", adapter: str = BOT) -> None:
    told = [
        Feedback(id=f"{adapter}-{i}", adapter=adapter, prompt=f"prompt {i}", answer="x", rating=float(i % 2),
                 rater=rater or f"rater-{i % 20}", at=AT + timedelta(minutes=i))
        for i in range(first, first + n)
    ]  # fmt: skip
    registry.feedback.add_many(told)


def ended(registry: Registry, run: Run) -> str:
    """The name of its snapshot; the run is over, so that another may begin."""
    assert run.snapshot is not None
    registry.runs.cancel(run.id, outcome="test")
    return run.snapshot.digest


def test_the_same_feedback_and_filter_is_the_same_snapshot(registry: Registry, tmp_path: Path) -> None:
    """Two runs of one seed are on one artifact, whose digest is the snapshot's own; another seed or filter is another."""
    an_adapter(registry, tmp_path)
    give(registry, 200)
    first = ended(registry, begin(registry, RunSpec(adapter=BOT), by="test"))
    assert ended(registry, begin(registry, RunSpec(adapter=BOT), by="test")) == first
    snapshot = stored_snapshot(registry, first)
    assert (snapshot.digest, snapshot.split_by, snapshot.seed) == (first, "rater", 0)
    assert snapshot.filter == SnapshotFilter()
    assert ended(registry, begin(registry, RunSpec(adapter=BOT, seed=1), by="test")) != first
    filtered = RunSpec(adapter=BOT, snapshot=SnapshotFilter(since=AT + timedelta(minutes=50)))
    other = stored_snapshot(registry, ended(registry, begin(registry, filtered, by="test")))
    assert other.counts["feedback"] == 150


def test_a_run_on_an_earlier_snapshot(registry: Registry, tmp_path: Path) -> None:
    """It is on the very items, whatever has come since and whatever the policy filters; what came since stays new."""
    an_adapter(registry, tmp_path)
    give(registry, 200)
    first = begin(registry, RunSpec(adapter=BOT), by="test")
    name = ended(registry, first)
    give(registry, 100, first=200)
    registry.set_policy(BOT, Policy(run=RunOptions(snapshot=SnapshotFilter(balance="good_bad"))), by="test")
    again = begin(registry, RunSpec(adapter=BOT, seed=9, snapshot_digest=name), by="test")
    assert again.snapshot == first.snapshot
    assert again.feedback_seen == 200
    assert registry.runs.get(again.id).spec.snapshot_digest == name  # the stored record reads
    registry.runs.cancel(again.id, outcome="test")
    fresh = begin(registry, RunSpec(adapter=BOT), by="test")
    assert stored_snapshot(registry, ended(registry, fresh)).filter == SnapshotFilter(balance="good_bad")


def test_what_is_no_snapshot_of_the_adapter_is_refused(registry: Registry, tmp_path: Path) -> None:
    """An unknown name, weights, another adapter's snapshot, a name that is no digest, a filter beside a name."""
    for name in (BOT, "other"):
        an_adapter(registry, tmp_path, name)
        give(registry, 200, adapter=name)
    of_other = frozen_for(registry, RunSpec(adapter="other")).digest
    note = registry.artifacts.put_json({"no": "snapshot"})
    for unknown in ("sha256:" + "0" * 64, registry.version(BOT, 1).digest, note, registry.artifacts.put_json([1])):
        with pytest.raises(SnapshotUnknown):
            begin(registry, RunSpec(adapter=BOT, snapshot_digest=unknown), by="test")
    with pytest.raises(BadInput, match="of 'other', not of 'bot'"):
        begin(registry, RunSpec(adapter=BOT, snapshot_digest=of_other), by="test")
    with pytest.raises(BadInput, match="not a digest"):
        stored_snapshot(registry, "../../etc/passwd")
    with pytest.raises(ValueError, match="leave 'snapshot' out"):
        RunSpec(adapter=BOT, snapshot_digest=of_other, snapshot=SnapshotFilter(max_rater_share=1))


def test_too_little_feedback_says_what_was_left_out(registry: Registry, tmp_path: Path) -> None:
    """Whoever wonders why 300 items are too few is told of the cap, and of what to change."""
    an_adapter(registry, tmp_path)
    give(registry, 260, rater="loud")
    give(registry, 40, first=300)
    with pytest.raises(TooLittleFeedback, match=r"\(\d+ are over the cap of a rater\).*widen 'snapshot'"):
        begin(registry, RunSpec(adapter=BOT, min_feedback=150), by="test")
    wide = RunSpec(adapter=BOT, min_feedback=150, snapshot=SnapshotFilter(max_rater_share=1))
    assert begin(registry, wide, by="test").snapshot is not None


async def test_a_snapshot_over_http(registry: Registry, registry_settings: RegistrySettings, tmp_path: Path) -> None:
    """The body's filter counts, the snapshot can be read and run on again; what is wrong is told as 404 and 422."""
    an_adapter(registry, tmp_path)
    give(registry, 200)
    async with serving(registry_settings, tmp_path / "home") as client:
        body = {"adapter": BOT, "snapshot": {"balance": "good_bad", "max_per_rater": 8}, "confirm_items": 60}
        started = await client.post("/api/runs", json=body)
        assert started.status_code == 201
        run = started.json()
        told = await client.get(f"/api/snapshots/{run['snapshot']['digest']}")
        snapshot = told.json()
        assert snapshot["filter"]["balance"] == "good_bad"
        assert snapshot["limits"] == [200, 60]
        assert len(snapshot["confirm"]) == run["snapshot"]["confirm"] <= 60
        assert snapshot["search"][0]["sources"][0].startswith("bot-")
        await client.post(f"/api/runs/{run['id']}/cancel")
        again = await client.post("/api/runs", json={"adapter": BOT, "snapshot_digest": snapshot["digest"]})
        assert again.json()["snapshot"] == run["snapshot"]
        assert (await client.get("/api/snapshots/sha256:" + "0" * 64)).status_code == 404
        assert (await client.get("/api/snapshots/nonsense")).status_code == 422
        wrong = await client.post("/api/runs", json={"adapter": BOT, "snapshot": {"colour": "red"}})
        assert wrong.status_code == 422
