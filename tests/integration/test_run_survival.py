"""What may go wrong around a run, one thing after the other: it ends as it would have, or says why it cannot."""

from __future__ import annotations

import json
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from registry.adaptation import begin
from registry.errors import RecordNewer, RegistryDown
from registry.keys import Keys
from registry.record import SCHEMA
from registry.records import Replica, Run, RunSpec, now
from registry.runs import Runs
from swarm_worker.run import CONFIRM, RunDriver, search_step
from swarm_worker.scoring.merging import MergedModel
from swarm_worker.slices import MOST_CLAIMS, SliceScorer
from tests.workshop import BOT, Workshop, engine, give_feedback, workshop

__all__ = ["engine", "workshop"]  # fixtures
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
SPEC = RunSpec(adapter=BOT, seed=3, max_generations=2, promote=False)


class Killed(BaseException):
    """What a ``kill -9`` leaves behind: nothing after it is done, and nobody catches it."""


def started(workshop: Workshop, spec: RunSpec = SPEC, feedback: int = 120) -> Run:
    if not workshop.registry.feedback.count(BOT):
        give_feedback(workshop, feedback)
    return begin(workshop.registry, spec, by="test")


def slice_of(workshop: Workshop) -> tuple[str, str, int]:
    message = workshop.queue[0]
    return message["run"], message["step"], message["index"]


def test_a_step_opens_whole_or_not_at_all(workshop: Workshop) -> None:
    """Two openers that would cut it differently: the first one's slices stand, and no mixture of both."""
    runs = workshop.registry.runs
    assert runs.open_step("run-x", "search-0", [{"index": 0}, {"index": 1}])
    assert not runs.open_step("run-x", "search-0", [{"index": 0, "other": True}, {"index": 1}, {"index": 2}])
    assert runs.due("run-x", "search-0", seconds=60, limit=9) == [{"index": 0}, {"index": 1}]


def test_a_slice_belongs_to_its_latest_holder(workshop: Workshop) -> None:
    """A worker that was given up cannot keep the lease of the one that took over; its report is refused."""
    runs = workshop.registry.runs
    runs.open_step("run-x", "confirm", [{"index": 0}])
    first = runs.claim("run-x", "confirm", 0, lease_seconds=600)
    assert first is not None
    assert runs.claim("run-x", "confirm", 0, lease_seconds=600) is None
    assert runs.renew("run-x", "confirm", 0, first, lease_seconds=0)
    second = runs.claim("run-x", "confirm", 0, lease_seconds=600)
    assert second == first + 1
    assert not runs.renew("run-x", "confirm", 0, first, lease_seconds=600)
    assert runs.report("run-x", "confirm", 0, first, {}) is None
    assert runs.report("run-x", "confirm", 0, second, {}) == 0
    assert not runs.renew("run-x", "confirm", 0, second, lease_seconds=600)
    assert runs.due("run-x", "confirm", seconds=0, limit=9) == []


def test_states_and_reports_of_a_newer_shoal_are_refused(workshop: Workshop) -> None:
    """They are no records, and numbered as those are; of before they were numbered they are read."""
    runs, redis = workshop.registry.runs, workshop.registry.redis
    run = runs.create(Run(id="run-x", spec=RunSpec(adapter=BOT), created_at=now(), created_by="test"))
    runs.save(run, {"generation": 1})
    runs.open_step(run.id, "confirm", [{"index": 0}])
    runs.report(run.id, "confirm", 0, runs.claim(run.id, "confirm", 0, lease_seconds=600) or 0, {"rank": 4})
    state, reports = runs.search_state(run.id), runs.reports(run.id, "confirm")
    assert (state, reports) == ({"generation": 1}, [{"rank": 4}])

    keys = Keys(workshop.registry.settings.namespace)
    kept = {"search": keys.run(run.id, "search"), "reports": keys.run(run.id, "confirm:reports")}
    assert json.loads(str(redis.get(kept["search"])))["schema_number"] == SCHEMA
    redis.set(kept["search"], json.dumps({"generation": 1}))
    assert runs.search_state(run.id) == state
    newer = {"schema_number": SCHEMA + 1, "colour": "red"}
    redis.set(kept["search"], json.dumps(newer))
    redis.hset(kept["reports"], "0", json.dumps(newer))
    for ask in (lambda: runs.search_state(run.id), lambda: runs.reports(run.id, "confirm")):
        with pytest.raises(RecordNewer, match="upgrade this process"):
            ask()


def test_a_lost_message_is_sent_again_ever_more_patiently(workshop: Workshop) -> None:
    """What was sent counts as under way; one that is lost comes again, and does not crowd out what was never sent."""
    runs = workshop.registry.runs
    runs.open_step("run-x", "search-0", [{"index": index} for index in range(5)])
    assert [each["index"] for each in runs.due("run-x", "search-0", seconds=60, limit=2)] == [0, 1]
    assert runs.due("run-x", "search-0", seconds=60, limit=2) == []
    assert [each["index"] for each in runs.due("run-x", "search-0", seconds=0, limit=2)] == [0, 1]
    assert [each["index"] for each in runs.due("run-x", "search-0", seconds=60, limit=3)] == [2]


def test_a_message_that_waits_its_turn_is_not_lost(workshop: Workshop) -> None:
    """While a slice that was sent before it is being scored it may still be in the queue, however long the one takes; once none
    is, or whoever held that one is gone, it comes again. One that was sent later says nothing of it."""
    runs = workshop.registry.runs
    runs.open_step("run-x", "search-0", [{"index": index} for index in range(5)])

    def due(limit: int = 4, seconds: float = 0.0) -> list[int]:
        return [each["index"] for each in runs.due("run-x", "search-0", seconds=seconds, limit=limit)]

    assert due() == [0, 1, 2, 3]
    fence = runs.claim("run-x", "search-0", 0, lease_seconds=60)
    assert fence is not None
    assert due() == due() == []
    assert runs.report("run-x", "search-0", 0, fence, {}) == 4
    assert runs.claim("run-x", "search-0", 2, lease_seconds=60) is not None
    assert due() == [1, 4]  # 1 was sent before 2, and 4 never yet; 3 waits behind 2
    assert runs.claim("run-x", "search-0", 2, lease_seconds=0.001) is None  # it is held


@pytest.mark.parametrize("moment", ["save", "open_step", "due", "reports", "search_state"])
def test_a_control_worker_dies_at_any_step_of_a_move(
    workshop: Workshop, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before or after each thing it says to Redis, generation after generation: the same coefficients come out."""
    undisturbed = workshop.finish(started(workshop))
    run = started(workshop)
    real = getattr(Runs, moment)
    calls = {"count": 0}

    def dying(self: Runs, *args: Any, **named: Any) -> Any:
        calls["count"] += 1
        if calls["count"] % 3 == 1:
            raise Killed
        answer = real(self, *args, **named)
        if calls["count"] % 3 == 2:
            raise Killed
        return answer

    monkeypatch.setattr(Runs, moment, dying)
    for _ in range(60):
        try:
            workshop.driver.look_after()
            workshop.work()
        except Killed:
            continue
        if not workshop.registry.runs.get(run.id).going:
            break
    monkeypatch.undo()
    ended = workshop.look_after_until_ended(run)
    assert calls["count"] > 3
    assert same(ended) == same(undisturbed)


def same(run: Run) -> Any:
    """What must not depend on what happened on the way."""
    return (
        run.status,
        run.coefficients,
        run.item_generations,
        run.generation,
        run.best_utility,
        run.version,
        run.outcome,
    )


def test_two_control_workers_at_once_make_each_move_once(workshop: Workshop) -> None:
    """Eight threads that advance the run whenever they can: each generation is one event, and the result is the same."""
    undisturbed = workshop.finish(started(workshop))
    run = started(workshop)
    drivers = [
        RunDriver(workshop.registry, workshop.driver.settings, workshop.queue.append, lambda run_id, seconds: None)
        for _ in range(8)
    ]
    done = threading.Event()

    def drive(driver: RunDriver) -> None:
        while not done.is_set():
            driver.advance(run.id)
            driver.look_after()

    threads = [threading.Thread(target=drive, args=(driver,)) for driver in drivers]
    for thread in threads:
        thread.start()
    try:
        ended = workshop.look_after_until_ended(run)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert same(ended) == same(undisturbed)
    _, states = workshop.registry.runs.changes_after(run.id, "0")
    assert [state.revision for state in states] == list(range(ended.revision + 1))


def test_what_goes_wrong_around_a_slice_is_tried_again(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that cannot be read twice costs two attempts; the result is that of a run that could read it."""
    undisturbed = workshop.finish(started(workshop))
    run = started(workshop)
    real, failures = workshop.scorer.engine.ask, iter([OSError("no"), MemoryError("no")])

    def ask(*args: Any) -> Any:
        if error := next(failures, None):
            raise error
        return real(*args)

    workshop.driver.advance(run.id)
    monkeypatch.setattr(workshop.scorer.engine, "ask", ask)
    assert same(workshop.look_after_until_ended(run)) == same(undisturbed)


def test_a_slice_that_no_worker_can_score_ends_the_run_with_the_reason(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some tries the run has failed, says why, and its adapter is free; it never goes on with half a generation."""
    run = started(workshop)
    workshop.driver.advance(run.id)

    def ask(*args: Any) -> Any:
        raise MemoryError("the machine is too small")

    monkeypatch.setattr(workshop.scorer.engine, "ask", ask)
    where = slice_of(workshop)
    for _ in range(MOST_CLAIMS + 1):
        workshop.scorer.score(*where, {"moves": []} | workshop.queue[0]["work"])
    workshop.registry.runs.report(*where, 0, {})  # a stranger's
    monkeypatch.undo()
    ended = workshop.look_after_until_ended(run)
    assert ended.status == "failed"
    assert "the machine is too small" in ended.outcome
    workshop.registry.runs.cancel(started(workshop).id, outcome="test")


def test_workers_that_die_at_a_slice_end_the_run(workshop: Workshop) -> None:
    """A slice that kills whoever takes it up is not given to workers for ever, and the run says where to look."""
    run = started(workshop)
    workshop.driver.advance(run.id)
    where = slice_of(workshop)
    for _ in range(MOST_CLAIMS):
        fence = workshop.registry.runs.claim(*where, lease_seconds=600)
        assert fence is not None
        workshop.registry.runs.renew(*where, fence, lease_seconds=0)
    ended = workshop.look_after_until_ended(run)
    assert ended.status == "failed"
    assert f"{MOST_CLAIMS} workers" in ended.outcome
    assert "SHOAL_STALL_SECONDS" in ended.outcome
    assert "memory" in ended.outcome


def at_step(workshop: Workshop, step: str) -> dict[str, Any]:
    """The first message of a step of a run, as a scorer takes it."""
    run = started(workshop)
    workshop.driver.advance(run.id)
    while workshop.queue[0]["step"] != step:
        workshop.work(limit=1)
    message = workshop.queue.pop(0)
    return {"run_id" if key == "run" else key: value for key, value in message.items()}


def test_a_slow_confirmation_is_not_taken_for_stuck(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it takes longer than a worker may stand still, but no step of it does; and its report is that of a fast machine."""
    message, stall = at_step(workshop, CONFIRM), 1.6
    fast = workshop.scorer._confirm(workshop.scorer._enter(message["run_id"]), tuple(message["work"]["coefficients"]))
    settings = workshop.driver.settings.model_copy(update={"stall_seconds": stall})
    scorer = SliceScorer(workshop.registry, settings, workshop.scorer.engine)
    real, beats = MergedModel.__call__, [time.monotonic()]

    def slow(*args: Any, **inputs: Any) -> Any:
        time.sleep(0.1)
        return real(*args, **inputs)

    monkeypatch.setattr(MergedModel, "__call__", slow)
    monkeypatch.setattr(scorer.watchdog, "progress", lambda: beats.append(time.monotonic()))
    assert scorer.score(**message) == 0
    beats.append(time.monotonic())
    assert beats[-1] - beats[0] > stall
    assert max(after - before for before, after in pairwise(beats)) < stall
    (report,) = workshop.registry.runs.reports(message["run_id"], CONFIRM) or ()
    assert {key: report[key] for key in fast} == fast


def test_cancelled_in_the_middle_of_a_confirmation(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand answers may be to come: the next pass of the model is not made, nothing is reported, and the worker is free for
    the next run, which ends as any."""
    undisturbed = workshop.finish(started(workshop))
    message = at_step(workshop, CONFIRM)
    monkeypatch.setattr("swarm_worker.slices.LOOK_SECONDS", 0.0)
    real, passes = MergedModel.__call__, []

    def watched(*args: Any, **inputs: Any) -> Any:
        passes.append(1)
        if len(passes) == 3:
            workshop.registry.runs.cancel(message["run_id"], outcome="test")
        return real(*args, **inputs)

    with monkeypatch.context() as patched:
        patched.setattr(MergedModel, "__call__", watched)
        assert workshop.scorer.score(**message) is None
    assert len(passes) == 3
    assert workshop.registry.runs.reports(message["run_id"], CONFIRM) is None
    workshop.queue.clear()
    assert same(workshop.finish(started(workshop))) == same(undisturbed)


def test_cancelled_between_two_positions(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slice of many positions stops after the one that is being scored."""
    settings = workshop.driver.settings.model_copy(update={"slice_size": 100})
    monkeypatch.setattr(workshop.scorer, "at_once", 1)
    run = started(workshop)
    RunDriver(workshop.registry, settings, workshop.queue.append, lambda run_id, seconds: None).advance(run.id)
    (message,) = workshop.queue
    assert len(message["work"]["moves"]) > 3
    real, asked = workshop.scorer.engine.ask, []

    def ask(scored: Any, *args: Any) -> Any:
        asked.append(scored)
        if len(asked) == 2:  # the champion's likelihoods, then the first position
            workshop.registry.runs.cancel(run.id, outcome="test")
        return real(scored, *args)

    monkeypatch.setattr(workshop.scorer.engine, "ask", ask)
    workshop.work()
    assert len(asked) == 2
    assert workshop.registry.runs.reports(run.id, search_step(0)) is None
    ended = workshop.registry.runs.get(run.id)
    assert (ended.status, ended.item_generations) == ("cancelled", 0)


def test_a_report_waits_for_redis(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis goes while a slice is scored: what was scored is reported when it is back, and not scored again."""
    run = started(workshop)
    workshop.driver.advance(run.id)
    real, down = Runs.report, iter([RegistryDown("gone"), RegistryDown("gone")])

    def report(self: Runs, *args: Any) -> Any:
        if error := next(down, None):
            raise error
        return real(self, *args)

    monkeypatch.setattr(Runs, "report", report)
    monkeypatch.setattr("swarm_worker.hold.REST_SECONDS", 0.01)
    message = workshop.queue.pop(0)
    missing = workshop.scorer.score(message["run"], message["step"], message["index"], message["work"])
    assert missing is not None


def test_a_run_that_cannot_go_on_ends_and_keeps_no_other_waiting(workshop: Workshop) -> None:
    """One run whose optimiser's state makes no sense; the run of another adapter is moved on by the same tick. In the end the
    first has failed, with the reason."""
    broken = started(workshop)
    workshop.driver.advance(broken.id)
    searching = workshop.registry.runs.get(broken.id)
    workshop.registry.runs.save(searching.model_copy(update={"generation": 7}), {"optimizer": "cma_es"})
    workshop.registry.create_adapter("other", by="test")
    spec = RunSpec(adapter="other")
    unlike = {"id": "run-other", "spec": spec, "status": "queued", "champion": None, "revision": 0}
    workshop.registry.runs.create(broken.model_copy(update=unlike))
    workshop.driver.look_after()
    assert workshop.registry.runs.get("run-other").status == "searching"
    assert workshop.registry.runs.get(broken.id).going
    settings = workshop.driver.settings.model_copy(update={"stuck_seconds": 1e-9})
    RunDriver(workshop.registry, settings, workshop.queue.append, lambda run_id, seconds: None).look_after()
    ended = workshop.registry.runs.get(broken.id)
    assert ended.status == "failed"
    assert "KeyError" in ended.outcome


@pytest.mark.parametrize("optimizer", ["cma_es", "model_swarms", "bayesian"])
def test_a_budget_is_never_exceeded(workshop: Workshop, optimizer: Any) -> None:
    """The search ends before the generation that would cost more than there is, and says so; the bill is exact."""
    limit = 2000
    spec = RunSpec(adapter=BOT, optimizer=optimizer, max_item_generations=limit, promote=False)
    ended = workshop.finish(started(workshop, spec))
    assert ended.snapshot is not None
    assert ended.status in ("done", "stopped"), ended.outcome
    assert ended.item_generations <= limit
    assert ended.item_generations % ended.snapshot.search == 0
    _, states = workshop.registry.runs.changes_after(ended.id, "0")
    last = next(state for state in states if state.status == "confirming")
    assert f"of {limit} item-generations are used" in last.outcome


def test_a_budget_below_the_starts_is_refused(workshop: Workshop) -> None:
    """Nothing is scored for a search that could not even compare its experts; the outcome says so."""
    ended = workshop.finish(started(workshop, RunSpec(adapter=BOT, max_item_generations=50)))
    assert (ended.status, ended.item_generations) == ("failed", 0)
    assert "budget" in ended.outcome


def test_a_budget_of_seconds_ends_a_search(workshop: Workshop) -> None:
    """However short: the starts are scored, and the best of them goes to confirm."""
    ended = workshop.finish(started(workshop, RunSpec(adapter=BOT, max_seconds=0.01, promote=False)))
    assert (ended.status, ended.generation) == ("stopped", 0) or ended.status == "done"
    assert ended.decision is not None


def test_however_a_generation_is_cut_the_same_comes_out(workshop: Workshop, tmp_path: Path) -> None:
    """Slices of 1, of 3 and of all positions, in one go or one by one: the same coefficients and weights."""
    outcomes = []
    for size, at_once in ((1, 1), (3, 2), (100, 100)):
        settings = workshop.driver.settings.model_copy(update={"slice_size": size})
        workshop.scorer.at_once = at_once
        workshop.driver = RunDriver(workshop.registry, settings, workshop.queue.append, lambda run_id, seconds: None)
        outcomes.append(same(workshop.finish(started(workshop))))
    assert outcomes[0] == outcomes[1] == outcomes[2]


def promoting(workshop: Workshop) -> Run:
    """A run whose finalist, an import, is registered and about to be promoted."""
    run = started(workshop, RunSpec(adapter=BOT))
    saved = workshop.registry.runs.save(run.model_copy(update={"status": "promoting", "version": 2}))
    assert saved is not None
    return saved


def test_killed_between_the_promotion_and_its_record(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The champion has moved, the run does not know: whatever a replica says by then, the run ends as promoted, and the history
    has one promotion."""
    run = promoting(workshop)

    def end(*args: Any) -> None:
        raise Killed

    monkeypatch.setattr(RunDriver, "_end", end)
    with pytest.raises(Killed):
        workshop.driver.advance(run.id)
    monkeypatch.undo()
    assert workshop.registry.rollout(BOT).champion == 2
    refused = Replica(id="r", at=now(), refused={f"{BOT}@2": "out of memory"})
    workshop.registry.replicas.beat(refused, ttl=60)
    workshop.driver.advance(run.id)
    ended = workshop.registry.runs.get(run.id)
    assert (ended.status, ended.promoted) == ("done", True), ended.outcome
    promotions = [event for event in workshop.registry.history(BOT) if event.kind == "promoted" and event.by == run.id]
    assert len(promotions) == 1


def test_a_run_hears_no_refusal_of_an_earlier_wish(workshop: Workshop) -> None:
    """A replica that could not serve the version for an earlier move is asked anew; refused again, the run ends with the reason,
    and nothing goes on being asked of it."""
    run, replicas = promoting(workshop), workshop.registry.replicas
    earlier = replicas.ask(BOT, 2)
    replicas.withdraw(BOT, 2, earlier)
    refused = Replica(id="r", at=now(), refused={f"{BOT}@2": "no memory"}, heard={f"{BOT}@2": earlier})
    replicas.beat(refused, ttl=60)
    for _ in range(2):
        workshop.driver.advance(run.id)
        assert workshop.registry.runs.get(run.id).status == "promoting"
    assert replicas.wishes() == [(BOT, 2, earlier + 1)]
    replicas.beat(refused.model_copy(update={"heard": {f"{BOT}@2": earlier + 1}}), ttl=60)
    workshop.driver.advance(run.id)
    ended = workshop.registry.runs.get(run.id)
    assert (ended.status, ended.promoted) == ("done", False)
    assert "a replica cannot serve it: r: no memory" in ended.outcome
    assert replicas.wishes() == []


def test_a_cancelled_run_does_not_promote(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelled at the last moment: either it is cancelled and the champion stays, or it was too late and both say promoted."""
    runs, real = workshop.registry.runs, workshop.registry.policy
    run = promoting(workshop)

    def policy(adapter: str) -> Any:
        runs.cancel(run.id, outcome="in time")
        return real(adapter)

    monkeypatch.setattr(workshop.registry, "policy", policy)
    workshop.driver.advance(run.id)
    monkeypatch.undo()
    assert runs.get(run.id).status == "cancelled"
    assert workshop.registry.rollout(BOT).champion == 1

    late = promoting(workshop)
    move = workshop.registry.promote

    def promote(*args: Any, **named: Any) -> Any:
        assert runs.cancel(late.id, outcome="too late").going
        return move(*args, **named)

    monkeypatch.setattr(workshop.registry, "promote", promote)
    workshop.driver.advance(late.id)
    assert (runs.get(late.id).status, runs.get(late.id).promoted) == ("done", True)
    assert workshop.registry.rollout(BOT).champion == 2
