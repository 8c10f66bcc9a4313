"""Growing beyond the hull: when a run does it, on which items, and what comes of the training."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from registry.canonical import digest
from registry.grow import Grow, Growth, beyond, growth, taught
from registry.lineage import lineage_tree
from registry.records import ExpertRef, Lineage, Run, RunSpec, SnapshotItem, Training, Version
from shoal.cli.lineage_graph import mermaid

AT = datetime(2026, 1, 1, tzinfo=UTC)
STUCK = Grow(when="stuck")


def run(status: str, champion: int = 1) -> Run:
    held = ExpertRef(version=champion, digest=digest(champion), name="c")
    return Run(id="r", spec=RunSpec(adapter="bot"), status=status, created_at=AT, created_by="t", champion=held)


def items(n: int, *, good: bool = True) -> list[SnapshotItem]:
    return [
        SnapshotItem(
            digest=digest(f"item {i}"), prompt=f"{i}", good="yes" if good else None, bad=None if good else "no"
        )
        for i in range(n)
    ]


def version(number: int, start: int | None = None, *, trained: bool = False) -> Version:
    begun = ExpertRef(version=start, digest=digest(start), name=f"v{start}") if start else None
    training = Training(
        run_id="run-1",
        start=begun,
        snapshot=digest("snapshot"),
        items=40,
        share=0.5,
        steps=100,
        rate=1e-3,
        batch=16,
        rank=8,
        seed=3,
    )
    return Version(
        adapter="bot",
        version=number,
        digest=digest(number),
        rank=8,
        size=1,
        created_at=AT,
        created_by="t",
        origin="trained" if trained else "import",
        training=training if trained else None,
    )


@pytest.mark.parametrize(
    ("statuses", "grows"),
    [
        (["stopped", "stopped"], True),
        (["stopped", "stopped", "done"], True),
        (["stopped"], False),
        (["done", "stopped", "stopped"], False),
        (["stopped", "done", "stopped"], False),
        (["failed", "stopped", "cancelled", "stopped"], True),
        ([], False),
    ],
)
def test_stuck_is_when_the_last_runs_found_nothing(statuses: list[str], grows: bool) -> None:
    """Newest first: two that stopped in a row; a run that failed or was cancelled says nothing either way."""
    found = growth(STUCK, [run(status) for status in statuses], champion=1)
    assert (found is not None) == grows
    assert found is None or "the last 2 runs against version 1 found nothing" in found.reason


def test_what_lost_its_trial_is_nothing_better() -> None:
    """Where users decide nearly every find passes the gate: only what they keep, or a person may, says that the hull has more."""
    lost = run("done").model_copy(update={"lost_trial": True})
    assert growth(STUCK, [lost, lost], champion=1) is not None
    assert growth(STUCK, [lost, run("stopped")], champion=1) is not None
    assert growth(STUCK, [lost, run("done")], champion=1) is None


def test_runs_against_another_champion_do_not_count() -> None:
    """A champion that somebody moved to has a hull that nobody searched yet."""
    assert growth(STUCK, [run("stopped", 2), run("stopped", 2)], champion=1) is None
    assert growth(STUCK, [run("stopped"), run("done", 2), run("stopped")], champion=1) is not None


def test_never_and_always_need_no_runs() -> None:
    """What was asked for is done, whatever the runs before it were."""
    assert growth(Grow(), [run("stopped")] * 5, champion=1) is None
    assert growth(Grow(when="always"), [run("done")], champion=1) == Growth(reason="as asked")


def test_the_lesson_is_a_share_of_the_items_with_a_good_answer() -> None:
    """It follows from the items and the seed, whatever their order; an item that says only what is bad teaches nothing."""
    told = [*items(40), *items(60, good=False)[40:]]
    lesson = taught(told, 0.25, seed=1)
    assert len(lesson) == 10
    assert lesson <= {item.digest for item in told[:40]}
    assert taught(told[::-1], 0.25, seed=1) == lesson
    assert taught(told, 0.25, seed=2) != lesson
    assert taught(told[40:], 0.5, seed=1) == frozenset()


@pytest.mark.parametrize("wrong", [{"when": "maybe"}, {"share": 1.0}, {"steps": 0}, {"rate": 0}, {"colour": "red"}])
def test_a_field_out_of_range_is_refused(wrong: dict[str, Any]) -> None:
    """Bounds are the record's own, so the API's 422 and a policy name the field."""
    with pytest.raises(ValidationError):
        Grow.model_validate(wrong)


def test_a_spec_of_before_grows_nothing() -> None:
    """A record that was stored without the field reads as one that does not grow."""
    stored = RunSpec(adapter="bot").model_dump_json(exclude={"grow"})
    assert RunSpec.model_validate_json(stored).grow.when == "never"
    assert Run.model_validate_json(run("done").model_dump_json(exclude={"growth"})).growth is None


def test_lineage_shows_what_a_trained_expert_was_trained_from() -> None:
    """Its start hangs below it, with the run, the feedback, the steps and the seed; one from the base has nothing below."""
    held = {1: version(1), 2: version(2, 1, trained=True), 3: version(3, trained=True)}
    tree = lineage_tree(held.__getitem__, 2)
    assert [expert["version"] for expert in tree["experts"]] == [1]
    assert (tree["run_id"], tree["snapshot"], tree["seed"]) == ("run-1", digest("snapshot"), 3)
    assert tree["training"] == {
        "items": 40,
        "share": 0.5,
        "steps": 100,
        "rate": 1e-3,
        "batch": 16,
        "rank": 8,
        "start": "v1",
    }
    assert "n1 -->" in mermaid(tree)
    from_base = lineage_tree(held.__getitem__, 3)
    assert "experts" not in from_base
    assert from_base["training"]["start"] == "the base"


def test_a_champion_lies_beyond_experts_that_it_was_not_mixed_from() -> None:
    """One of them, or a mix of some of them, lies in their hull; a trained one, or a mix with another, does not."""
    one, two, other = version(1), version(2), version(3, 1, trained=True)

    def mix(*experts: Version) -> Version:
        lineage = Lineage(
            run_id="run-1",
            experts=tuple(ExpertRef(version=e.version, digest=e.digest, name="e") for e in experts),
            coefficients=(0.5,) * len(experts),
            space="delta",
            formula="...",
            rank=8,
            retained_energy=1.0,
            optimizer="cma_es",
            seed=0,
            snapshot=digest("snapshot"),
        )
        return version(9).model_copy(update={"origin": "run", "lineage": lineage})

    assert not beyond(one, [one, two])
    assert not beyond(mix(one), [one, two])
    assert beyond(other, [one, two])
    assert beyond(mix(one, other), [one, two])
    assert not beyond(mix(one, other), [one, two, other])
