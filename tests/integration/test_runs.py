"""A run from trigger to delivered version, on a real Redis, the starter pack's real weights and the real scorer.

Only the broker is left out (``tests/workshop.py``).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from registry.adaptation import begin
from registry.canary_policy import CanaryPolicy
from registry.errors import BadInput, RunGoing, RunUnknown, TooLittleFeedback
from registry.gate_policy import GatePolicy
from registry.guard_policy import GuardPolicy
from registry.policy import Policy
from registry.records import Run, RunSpec, now
from registry.suites import Suite
from starter.skills import items
from swarm_worker.environment import here
from swarm_worker.rebuild import rebuild
from swarm_worker.scoring.engine import AdapterFolder, answers_of
from tests.registry_versions import RegistryVersions
from tests.workshop import BOT, Workshop, engine, give_feedback, workshop

__all__ = ["engine", "workshop"]  # fixtures
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_a_run_delivers_a_better_version_with_its_lineage(workshop: Workshop, tmp_path: Path) -> None:
    """Feedback in, a confirmed and promoted version out; what it is made of can be read from its lineage, and made again."""
    give_feedback(workshop, 300)
    run = workshop.finish(begin(workshop.registry, RunSpec(adapter=BOT, seed=1, max_generations=8), by="test"))
    assert (run.status, run.promoted) == ("done", True), run.outcome
    assert run.decision is not None
    assert run.decision["measure"] == "exact_match"
    assert run.decision["low"] > 0
    assert (run.decision["look"], run.decision["tested"]) == (1, True)
    assert run.decision["p"] <= run.decision["alpha"]
    version = workshop.registry.version(BOT, run.version or 0)
    assert version.lineage is not None
    assert version.lineage.coefficients == run.coefficients
    assert version.rank <= workshop.registry.settings.max_lora_rank
    assert version.lineage.environment == here()
    rebuilt = rebuild(RegistryVersions(workshop.registry), BOT, version.version, tmp_path)
    assert (rebuilt.outcome, rebuilt.digest) == ("same", version.digest)
    again, new = workshop.registry.register(BOT, rebuilt.folder, by="test")
    assert (again.version, new) == (version.version, False)  # the same bytes are the version that has them
    assert workshop.registry.rollout(BOT).champion == version.version
    event = workshop.registry.history(BOT, limit=1)[0]
    assert (event.by, event.before, event.after) == (run.id, 1, version.version)
    assert run.item_generations == (8 * 10 + len(run.experts) + 1) * (run.snapshot.search if run.snapshot else 0)


def test_a_better_version_that_loses_what_it_may_not_is_kept_out(workshop: Workshop) -> None:
    """The guard is that the champion's own answers stay: the run says which guard fell by how much and on which items, and
    registers nothing. With a tolerance for it the same search promotes, and its decision holds the guard's figures."""
    give_feedback(workshop, 300)
    registry = workshop.registry
    prompts = [item.prompt for item in items("blend", "traffic", 60, seed=8)]
    champion = AdapterFolder(registry.artifacts.fetch(registry.version(BOT, 1).digest))
    answers = answers_of(
        workshop.scorer.engine, champion, [[{"role": "user", "content": prompt}] for prompt in prompts], 24
    )
    asked = [
        {"id": f"q{number}", "messages": [{"role": "user", "content": prompt}], "good": answer or "-"}
        for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
    ]
    suite = Suite.read({"kind": "task", "utility": "exact_match", "max_tokens": 24, "items": asked})
    registry.suites.put(BOT, "habits", suite, by="test")
    registry.set_policy(BOT, Policy(guards=(GuardPolicy(suite="habits", tolerance=0.1),)), by="test")
    spec = RunSpec(adapter=BOT, seed=1, max_generations=8)
    kept_out = workshop.finish(begin(registry, spec, by="test"))
    assert (kept_out.status, kept_out.version) == ("stopped", None), kept_out.outcome
    assert "Guard 'habits'" in kept_out.outcome
    assert kept_out.decision is not None
    (guard,) = kept_out.decision["guards"]
    assert (kept_out.decision["passed"], guard["passed"], guard["n"]) == (False, False, 60)
    assert guard["worse"] == round(-guard["difference"] * 60)
    assert {"item", "before", "after"} == guard["items"][0].keys()

    lenient = Policy(guards=(GuardPolicy(suite="habits", tolerance=0.99),), gate=GatePolicy(correction="none"))
    registry.set_policy(BOT, lenient, by="test")
    promoted = workshop.finish(begin(registry, spec, by="test"))
    assert promoted.promoted, promoted.outcome
    assert promoted.decision is not None
    assert (promoted.decision["look"], promoted.decision["guards"][0]["passed"]) == (2, True)


def test_messages_delivered_twice_change_nothing(workshop: Workshop) -> None:
    """A run whose every message arrives three times ends with the same weights and one event each."""
    give_feedback(workshop, 200)
    spec = RunSpec(adapter=BOT, seed=3, max_generations=3, promote=False)
    once = workshop.finish(begin(workshop.registry, spec, by="test"))
    thrice = workshop.finish(begin(workshop.registry, spec, by="test"), repeat=3)
    assert thrice.coefficients == once.coefficients
    assert thrice.status == once.status
    assert thrice.item_generations == once.item_generations
    if once.version is not None:
        assert thrice.version == once.version  # the same bytes are the same version


def test_a_slice_of_a_dead_worker_is_sent_again(workshop: Workshop) -> None:
    """A worker that claimed a slice and died holds nothing up: its lease ends, the tick sends the slice again."""
    give_feedback(workshop, 200)
    run = begin(workshop.registry, RunSpec(adapter=BOT, seed=1, max_generations=1, promote=False), by="test")
    workshop.driver.advance(run.id)
    lost = workshop.queue.pop(0)
    where = (lost["run"], lost["step"], lost["index"])
    fence = workshop.registry.runs.claim(*where, lease_seconds=600)
    workshop.work()
    assert workshop.registry.runs.get(run.id).generation == 0
    assert workshop.registry.runs.renew(*where, fence or 0, lease_seconds=0)  # ten minutes later
    workshop.look_after_until_ended(run)
    assert workshop.registry.runs.report(*where, fence or 0, {"outcomes": [], "seconds": 0.0}) is None


def test_lost_messages_are_sent_again(workshop: Workshop) -> None:
    """A broker that loses everything it was given only costs time."""
    give_feedback(workshop, 200)
    run = begin(workshop.registry, RunSpec(adapter=BOT, seed=1, max_generations=1, promote=False), by="test")
    workshop.driver.look_after()  # the message that starts the run was lost, too
    for _ in range(3):
        workshop.queue.clear()
        time.sleep(0.2)
        workshop.driver.look_after()
    workshop.look_after_until_ended(run)


def test_a_run_that_improves_nothing_changes_nothing(workshop: Workshop) -> None:
    """Users who like every answer leave nothing to gain: the run says so and registers no version."""
    give_feedback(workshop, 200, always_right=True)
    before = workshop.registry.rollout(BOT)
    versions = len(workshop.registry.versions(BOT))
    run = workshop.finish(begin(workshop.registry, RunSpec(adapter=BOT, seed=1, max_generations=2), by="test"))
    assert run.status == "stopped"
    assert "Nothing better was found" in run.outcome
    assert workshop.registry.rollout(BOT) == before
    assert len(workshop.registry.versions(BOT)) == versions


def test_a_run_never_promotes_over_a_move_that_came_between(workshop: Workshop) -> None:
    """Somebody rolled back or promoted while the run went: its version is registered and stays off the traffic."""
    give_feedback(workshop, 300)
    run = begin(workshop.registry, RunSpec(adapter=BOT, seed=1, max_generations=6), by="test")
    workshop.registry.promote(BOT, 2, by="someone")
    ended = workshop.finish(run)
    assert ended.status == "done", ended.outcome
    assert not ended.promoted
    assert "revision" in ended.outcome
    assert workshop.registry.rollout(BOT).champion == 2


def test_what_leaves_traffic_alone_does_not_keep_a_run_from_promoting(workshop: Workshop) -> None:
    """A pin, its end, a version retired and a policy that still lets runs promote, all while it went: it promotes."""
    give_feedback(workshop, 300)
    registry = workshop.registry
    run = begin(registry, RunSpec(adapter=BOT, seed=1, max_generations=8), by="test")
    registry.pin(BOT, 2, by="someone")
    registry.unpin(BOT, 2, by="someone")
    registry.set_policy(BOT, Policy(adapt_every=3600), by="someone")
    ended = workshop.finish(run)
    assert (ended.status, ended.promoted) == ("done", True), ended.outcome
    assert registry.rollout(BOT).champion == ended.version


def test_a_policy_that_changes_at_the_last_moment_is_kept(workshop: Workshop) -> None:
    """A run that is about to promote when its adapter's policy begins to leave that to a person moves nothing."""
    give_feedback(workshop, 120)
    registry = workshop.registry
    run = begin(registry, RunSpec(adapter=BOT), by="test")
    promoting = registry.runs.save(run.model_copy(update={"status": "promoting", "version": 2}))
    assert promoting is not None
    registry.set_policy(BOT, Policy(promote=False), by="someone")
    workshop.driver.advance(run.id)
    ended = registry.runs.get(run.id)
    assert (ended.status, ended.promoted) == ("done", False)
    assert "policy changed" in ended.outcome
    assert registry.rollout(BOT).champion == 1


def test_a_find_that_nobody_will_try_is_not_promoted_on_a_tolerance(workshop: Workshop) -> None:
    """Its gate promised no gain because users were to decide; the policy no longer lets them when the find is ready."""
    give_feedback(workshop, 120)
    registry = workshop.registry
    lenient = GatePolicy(tolerance=0.05)
    registry.set_policy(BOT, Policy(gate=lenient, canary=CanaryPolicy(automatic=True)), by="someone")
    run = begin(registry, RunSpec(adapter=BOT), by="test")
    assert run.gate == lenient
    promoting = registry.runs.save(run.model_copy(update={"status": "promoting", "version": 2}))
    assert promoting is not None
    registry.set_policy(BOT, Policy(), by="someone")
    workshop.driver.advance(run.id)
    ended = registry.runs.get(run.id)
    assert (ended.status, ended.promoted) == ("done", False)
    assert "tolerance promises no gain" in ended.outcome
    assert registry.rollout(BOT).champion == 1


def test_a_run_stays_within_its_budget(workshop: Workshop) -> None:
    """In item-generations it never exceeds it and confirms what it found; in seconds it stops after the generation that
    used them up; where not one generation fits it says so."""
    give_feedback(workshop, 120)
    begun = begin(workshop.registry, RunSpec(adapter=BOT, promote=False, search_items=20), by="test")
    workshop.driver.advance(begun.id)
    slices = workshop.registry.runs.due(begun.id, "search-0", seconds=0, limit=100)
    first = sum(len(message["work"]["moves"]) for message in slices) * 20
    workshop.registry.runs.cancel(begun.id, outcome="test")
    workshop.queue.clear()

    def run(**budget: Any) -> Run:
        spec = RunSpec(adapter=BOT, promote=False, search_items=20, **budget)
        return workshop.finish(begin(workshop.registry, spec, by="test"))

    items = run(max_item_generations=2 * first + 200)
    assert items.decision is not None, items.outcome
    assert first <= items.item_generations <= 2 * first + 200
    timed = run(max_seconds=1e-6)
    assert timed.decision is not None
    assert (timed.generation, timed.item_generations) == (0, first)
    none = run(max_item_generations=first - 1)
    assert (none.status, none.item_generations) == ("failed", 0)
    assert "budget" in none.outcome


def test_default_experts_are_not_thousands(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the limit a run is refused with what to do; those that are named are taken."""
    give_feedback(workshop, 120)
    monkeypatch.setattr("registry.adaptation.MAX_EXPERTS", 2)
    with pytest.raises(BadInput, match="Name those to start from"):
        begin(workshop.registry, RunSpec(adapter=BOT), by="test")
    assert len(begin(workshop.registry, RunSpec(adapter=BOT, experts=(1, 2, 3)), by="test").experts) == 3


def test_pages_of_runs_fit_together_and_an_old_one_still_goes(workshop: Workshop) -> None:
    """However many runs of others came after it, a run that has not ended is looked after."""
    give_feedback(workshop, 120)
    runs = workshop.registry.runs
    old = begin(workshop.registry, RunSpec(adapter=BOT), by="test")
    workshop.registry.create_adapter("other", by="test")
    for number in range(205):
        other = old.model_copy(update={"id": f"run-{number}", "spec": RunSpec(adapter="other"), "created_at": now()})
        runs.create(other)
        if number < 204:
            runs.cancel(other.id, outcome="test")
    assert {run.id for run in runs.going()} == {old.id, "run-204"}
    assert {run.id for run in runs.going()} == {old.id, "run-204"}
    every = [run.id for run in runs.list(limit=500)]
    assert every[-1] == old.id
    assert [run.id for run in runs.list(limit=3, before=every[2])] == every[3:6]
    assert runs.list("other", before="run-0") == []
    with pytest.raises(RunUnknown):
        runs.list(before="no")


def test_a_run_is_listed_as_soon_as_it_has_its_place(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever began it is killed at once: the list of all runs has it, as its adapter's has."""

    class Killed(BaseException):
        pass

    give_feedback(workshop, 120)
    runs = workshop.registry.runs
    real = runs._create

    def killed(*args: Any, **how: Any) -> None:
        real(*args, **how)
        raise Killed

    monkeypatch.setattr(runs, "_create", killed)
    with pytest.raises(Killed):
        begin(workshop.registry, RunSpec(adapter=BOT), by="test")
    (run,) = runs.going()
    assert [one.id for one in runs.list()] == [one.id for one in runs.list(BOT)] == [run.id]


def test_refusals_name_the_reason(workshop: Workshop) -> None:
    """Too little feedback, unknown experts and a second run are refused, and no run is recorded."""
    with pytest.raises(TooLittleFeedback):
        begin(workshop.registry, RunSpec(adapter=BOT), by="test")
    give_feedback(workshop, 120)
    with pytest.raises(BadInput, match="at least two experts"):
        begin(workshop.registry, RunSpec(adapter=BOT, experts=(1,)), by="test")
    first = begin(workshop.registry, RunSpec(adapter=BOT), by="test")
    with pytest.raises(RunGoing, match=first.id):
        begin(workshop.registry, RunSpec(adapter=BOT), by="test")
    assert [run.id for run in workshop.registry.runs.list(BOT)] == [first.id]


def test_a_cancelled_run_stops_scoring_and_frees_the_place(workshop: Workshop) -> None:
    """Cancelled means: no further slice is scored, nothing is registered, another run may begin."""
    give_feedback(workshop, 120)
    run = begin(workshop.registry, RunSpec(adapter=BOT), by="test")
    workshop.driver.advance(run.id)
    workshop.registry.runs.cancel(run.id, outcome="test")
    workshop.work()
    assert workshop.registry.runs.get(run.id).status == "cancelled"
    assert workshop.registry.runs.get(run.id).item_generations == 0
    begin(workshop.registry, RunSpec(adapter=BOT), by="test")
