"""A run that grows: a trained expert joins its hull, on a real Redis, the starter pack's real weights and real gradients."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from registry.adaptation import begin
from registry.errors import BadInput
from registry.grow import Grow, taught
from registry.policy import Policy
from registry.records import Run, RunOptions, RunSpec, Snapshot
from registry.snapshots import read
from swarm_worker import slices, trainer
from swarm_worker.environment import here
from swarm_worker.fine_tuning import fine_tune
from swarm_worker.growth import joined, lessons
from swarm_worker.rebuild import rebuild
from swarm_worker.rebuild_cli import told
from swarm_worker.trainer import train
from swarm_worker.utilities import measure
from tests.registry_versions import RegistryVersions
from tests.served_app import serving
from tests.workshop import BOT, Workshop, engine, give_feedback, workshop

__all__ = ["engine", "workshop"]  # fixtures
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

QUICK = Grow(when="always", steps=6, batch=8)


def spec(grow: Grow = QUICK, **changes: Any) -> RunSpec:
    return RunSpec(adapter=BOT, seed=1, max_generations=2, grow=grow, **changes)


def snapshot_of(workshop: Workshop, run: Run) -> Snapshot:
    assert run.snapshot is not None
    return read(workshop.registry.artifacts.get_json, run.snapshot.digest)


def test_a_trained_expert_joins_the_hull_and_the_lineage(workshop: Workshop, tmp_path: Path) -> None:
    """What was delivered names the trained version; the mix is made again to the byte, the trained bytes are verified."""
    give_feedback(workshop, 200)
    weak = next(one.version for one in workshop.registry.versions(BOT) if one.label == "largest")
    workshop.registry.promote(BOT, weak, by="test")  # of no use to these users: much is better
    run = workshop.finish(begin(workshop.registry, spec(promote=False), by="test"))
    assert run.status == "done", run.outcome
    assert run.growth is not None
    assert run.growth.version is not None
    trained = workshop.registry.version(BOT, run.growth.version)
    assert (trained.origin, trained.created_by) == ("trained", run.id)
    assert trained.training is not None
    assert trained.training.start == run.champion
    assert trained.training.environment == here()
    assert run.experts[-1].digest == trained.digest
    mix = workshop.registry.version(BOT, run.version or 0)
    assert mix.lineage is not None
    assert mix.lineage.experts == run.experts
    versions = RegistryVersions(workshop.registry)
    for version, outcome in ((mix, "same"), (trained, "trained")):
        scratch = tmp_path / outcome
        scratch.mkdir()
        rebuilt = rebuild(versions, BOT, version.version, scratch)
        assert (rebuilt.outcome, rebuilt.digest) == (outcome, version.digest)
    assert "the training is not repeated" in told(rebuilt)
    tree = workshop.registry.lineage(BOT, mix.version)
    assert tree["experts"][-1]["experts"][0]["version"] == weak  # the champion that it was trained from
    assert tree["experts"][-1]["training"]["steps"] == 6


def test_the_budget_counts_the_training(workshop: Workshop) -> None:
    """A step over an item costs three item-generations; a position is scored on the items that were not trained on."""
    give_feedback(workshop, 200)
    run = workshop.finish(begin(workshop.registry, spec(promote=False), by="test"))
    assert run.growth is not None
    assert run.snapshot is not None
    assert run.growth.item_generations == 6 * 8 * 3
    assert 0 < run.growth.taught <= run.snapshot.search / 2
    left = run.snapshot.search - run.growth.taught
    evaluations = 2 * 10 + len(run.experts) + 1
    assert run.item_generations == run.growth.item_generations + evaluations * left


def test_no_confirm_item_is_trained_on_and_no_position_is_scored_on_the_lesson(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three sets that share no item: the training's, the search's, the confirmation's."""
    give_feedback(workshop, 200)
    trained: set[str] = set()
    searched: set[str] = set()

    def watched_training(base, start, items, **how):
        trained.update(json.dumps(item.messages) for item in items)
        return fine_tune(base, start, items, **how)

    def watched_search(utility, engine, scored, items, reference=None):
        searched.update(json.dumps(item.messages) for item in items)
        return measure(utility, engine, scored, items, reference)

    monkeypatch.setattr(trainer, "fine_tune", watched_training)
    monkeypatch.setattr(slices, "measure", watched_search)
    run = workshop.finish(begin(workshop.registry, spec(promote=False), by="test"))
    snapshot = snapshot_of(workshop, run)
    halves = {
        half: {
            json.dumps([message.model_dump() for message in item.messages or ()]) for item in getattr(snapshot, half)
        }
        for half in ("search", "confirm")
    }
    assert trained
    assert searched
    assert trained.isdisjoint(searched)
    assert trained | searched == halves["search"]
    assert trained.isdisjoint(halves["confirm"])


TRAINER = """
import sys
from registry.registry import Registry
from registry.settings import RegistrySettings
from swarm_worker.hold import Hold
from swarm_worker.scoring.transformers import TransformersEngine
from swarm_worker.settings import WorkerSettings
from swarm_worker.slices import SliceScorer
asked = Hold.goes_on
Hold.goes_on = lambda hold: print("a step", flush=True) or asked(hold)
registry = Registry.open(RegistrySettings.load())
engine = TransformersEngine.load(registry.settings.base)
SliceScorer(registry, WorkerSettings(lease_seconds=1.5), engine).score(sys.argv[1], "grow", 0, {"grow": True})
"""


def killed_in_the_middle(workshop: Workshop, run: Run) -> None:
    """A process of its own trains the run's expert, and is killed between two steps."""
    given = {f"SHOAL_{name.upper()}": str(value) for name, value in workshop.registry.settings if value is not None}
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINER, run.id], env=os.environ | given, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for _ in range(3):
        assert process.stdout.readline() == "a step\n"
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_killed_trainer_is_replaced_and_the_run_ends_the_same(workshop: Workshop) -> None:
    """One is killed between two steps: its lease ends, another trains from the start, and every byte is as undisturbed. Its
    report, had it come later, would be refused."""
    give_feedback(workshop, 200)
    registry = workshop.registry
    undisturbed = workshop.finish(begin(registry, spec(promote=False), by="test"))
    run = begin(registry, spec(promote=False), by="test")
    workshop.driver.advance(run.id)
    (message,) = workshop.queue
    assert len(json.dumps(message)) < 200
    assert registry.runs.get(run.id).status == "growing"
    workshop.queue.clear()
    killed_in_the_middle(workshop, run)
    assert registry.runs.reports(run.id, "grow") is None
    while not workshop.queue:  # until its lease has ended
        time.sleep(0.2)
        workshop.driver.look_after()
    workshop.work(repeat=2)
    ended = registry.runs.get(run.id)
    assert not ended.going
    assert ended.experts == undisturbed.experts  # the same bytes are the same version
    assert (ended.coefficients, ended.version) == (undisturbed.coefficients, undisturbed.version)
    assert ended.item_generations == undisturbed.item_generations
    assert [version.origin for version in registry.versions(BOT)].count("trained") == 1
    assert registry.runs.report(run.id, "grow", 0, 1, {"error": "too late"}) is None


def test_a_training_that_cannot_be_done_leaves_the_hull_as_it_was(workshop: Workshop) -> None:
    """Too few good answers: the run says so, searches the hull on all its items, and ends as one that never grew."""
    give_feedback(workshop, 200)
    few = Grow(when="always", share=0.02)
    run = workshop.finish(begin(workshop.registry, spec(few, promote=False), by="test"))
    plain = workshop.finish(begin(workshop.registry, spec(Grow(), promote=False), by="test"))
    assert run.growth is not None
    assert "10 items with a good answer or more" in run.growth.failure
    assert (run.growth.version, run.growth.taught) == (None, 0)
    assert (run.status, run.coefficients) == (plain.status, plain.coefficients)
    assert run.item_generations == plain.item_generations


def test_a_cancelled_run_stops_its_training(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelled in the middle of it: the next step is not taken, nothing is stored or reported. Each step is progress."""
    give_feedback(workshop, 200)
    registry, run = workshop.registry, begin(workshop.registry, spec(), by="test")
    workshop.driver.advance(run.id)
    steps: list[int] = []
    progress: list[int] = []
    monkeypatch.setattr(workshop.scorer.watchdog, "progress", lambda: progress.append(1))

    def cancelled_after_two(*args, on_step, **how):
        def step() -> None:
            steps.append(len(steps))
            if len(steps) == 3:
                registry.runs.cancel(run.id, outcome="test")
            on_step()

        return fine_tune(*args, on_step=step, **how)

    monkeypatch.setattr(trainer, "fine_tune", cancelled_after_two)
    workshop.work()
    assert steps == [0, 1, 2]
    assert len(progress) == 3
    assert registry.runs.get(run.id).status == "cancelled"
    assert registry.runs.reports(run.id, "grow") is None
    assert all(version.origin == "import" for version in registry.versions(BOT))


def test_a_run_grows_from_the_base_within_the_service_rank(workshop: Workshop) -> None:
    """A fresh adapter has the rank that was asked for, and says which base it fits as the experts do."""
    give_feedback(workshop, 200)
    grow = QUICK.model_copy(update={"start": "base", "rank": 4})
    run = begin(workshop.registry, spec(grow), by="test")
    report = train(workshop.registry, run, snapshot_of(workshop, run).search, lambda item: True)
    config = json.loads((workshop.registry.artifacts.fetch(report["digest"]) / "adapter_config.json").read_text())
    assert (report["rank"], config["base_model_name_or_path"]) == (4, "shoal-starter")
    assert report["items"] == len(taught(snapshot_of(workshop, run).search, grow.share, 1))


def test_a_run_grows_when_it_is_stuck(workshop: Workshop) -> None:
    """Two runs found nothing better than this champion: the third one grows; asked for before that, it does not."""
    give_feedback(workshop, 200, always_right=True)
    stuck = spec(Grow(when="stuck", steps=2, batch=2))
    for _ in range(2):
        run = begin(workshop.registry, stuck, by="test")
        assert run.growth is None
        ended = run.model_copy(update={"status": "stopped"})
        assert workshop.registry.runs.save(ended) is not None
    third = begin(workshop.registry, stuck, by="test")
    assert third.growth is not None
    assert "found nothing better" in third.growth.reason


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"space": "factors"}, "grow"),
        ({"grow": Grow(when="always", rank=64)}, "grow.rank"),
        ({"max_item_generations": 6 * 8 * 3}, "grow.steps"),
        ({"max_item_generations": 6 * 8 * 3 + 50}, "grow.steps"),
    ],
)
def test_what_could_not_join_is_refused_before_it_is_trained(workshop: Workshop, changes: dict, field: str) -> None:
    """A rank above the service's, a space in which the trained factors have no mix, a budget that leaves no search,
    or not enough of it to score each expert."""
    give_feedback(workshop, 120)
    with pytest.raises(BadInput) as refused:
        begin(workshop.registry, RunSpec(adapter=BOT, **{"grow": QUICK} | changes), by="test")
    assert refused.value.details["field"] == field
    assert workshop.registry.runs.list(BOT) == []


def test_a_policy_whose_budget_does_not_hold_both_searches_the_hull_alone(workshop: Workshop) -> None:
    """Nobody is there to ask again, so a run begins all the same: nothing is trained, the run says why, and its budget is the
    search's."""
    give_feedback(workshop, 200)
    registry = workshop.registry
    first = begin(registry, RunSpec(adapter=BOT, seed=1), by="test")
    registry.runs.cancel(first.id, outcome="test")
    assert first.snapshot is not None
    starts = (len(first.experts) + 1) * first.snapshot.search
    options = RunOptions(grow=QUICK, max_generations=2, max_item_generations=starts)
    registry.set_policy(BOT, Policy(run=options), by="test")
    run = workshop.finish(begin(registry, RunSpec(adapter=BOT, seed=1, promote=False), by="test"))
    assert run.status in ("done", "stopped"), run.outcome
    assert run.growth is not None
    assert "the budget does not hold a training and a search" in run.growth.failure
    assert (run.growth.version, run.item_generations) == (None, starts)
    assert all(version.origin != "trained" for version in registry.versions(BOT))


def test_a_training_has_half_of_the_seconds_and_the_starts_are_scored(workshop: Workshop) -> None:
    """One that takes longer is given up, however short the time; the run goes on as one that could not train."""
    give_feedback(workshop, 200)
    run = workshop.finish(begin(workshop.registry, spec(promote=False, max_seconds=0.01), by="test"))
    assert run.growth is not None
    assert "half of the run's max_seconds" in run.growth.failure
    assert (run.growth.version, run.generation) == (None, 0)
    assert run.decision is not None, run.outcome


def test_a_later_run_starts_from_a_trained_expert_on_items_that_it_was_not_taught(workshop: Workshop) -> None:
    """Named as an expert, it is neither scored nor confirmed on its lesson, whichever half of the new snapshot that is in."""
    give_feedback(workshop, 200)
    registry = workshop.registry
    first = workshop.finish(begin(registry, spec(promote=False), by="test"))
    assert first.growth is not None
    assert first.growth.version is not None
    lesson = taught(snapshot_of(workshop, first).search, QUICK.share, 1)
    asked = RunSpec(adapter=BOT, experts=(1, 2, first.growth.version), seed=2, max_generations=1)
    second = begin(registry, asked, by="test")
    scene = workshop.scorer._enter(second.id)
    snapshot = snapshot_of(workshop, second)
    used = {item.digest for item in scene.confirm}
    assert used == {item.digest for item in snapshot.confirm} - lesson
    assert len(used) < len(snapshot.confirm)
    assert len(scene.search) == len({item.digest for item in snapshot.search} - lesson)
    # The champion's own lesson is known to both sides of every comparison: nothing is left out for it.
    as_champion = second.model_copy(update={"champion": second.experts[-1]})
    assert lessons(registry, as_champion) == frozenset()


def test_a_champion_beyond_the_hull_joins_the_next_run(workshop: Workshop) -> None:
    """By default a run starts from every import; a champion that is no mix of them is one more expert."""
    give_feedback(workshop, 200)
    registry = workshop.registry
    first = begin(registry, spec(), by="test")
    imports = {version.version for version in registry.versions(BOT)}
    assert {expert.version for expert in first.experts} == imports
    report = train(registry, first, snapshot_of(workshop, first).search, lambda item: True)
    grown = joined(registry, first, report | {"seconds": 0.0})
    registry.runs.cancel(first.id, outcome="test")
    assert grown.growth is not None
    registry.promote(BOT, grown.growth.version or 0, by="test")
    second = begin(registry, RunSpec(adapter=BOT), by="test")
    assert {expert.version for expert in second.experts} == imports | {grown.growth.version}


async def test_the_api_takes_what_a_run_grows_by(workshop: Workshop, tmp_path: Path) -> None:
    """A body's ``grow`` is the run's, else a policy's; a word that is none of its own is 422."""
    give_feedback(workshop, 120)
    async with serving(workshop.registry.settings, tmp_path / "home") as shoal:
        wrong = await shoal.post("/api/runs", json={"adapter": BOT, "grow": {"when": "maybe"}})
        assert (wrong.status_code, "grow" in wrong.text) == (422, True)
        asked = {"adapter": BOT, "grow": {"when": "always", "start": "base"}}
        started = (await shoal.post("/api/runs", json=asked)).json()
        assert (started["spec"]["grow"]["start"], started["growth"]["reason"]) == ("base", "as asked")
        await shoal.post(f"/api/runs/{started['id']}/cancel")
        policy = {"policy": {"run": {"grow": {"when": "always", "steps": 7}}}}
        assert (await shoal.put(f"/api/adapters/{BOT}/policy", json=policy)).status_code == 200
        by_policy = (await shoal.post("/api/runs", json={"adapter": BOT})).json()
        assert by_policy["spec"]["grow"]["steps"] == 7
        assert by_policy["growth"] is not None
