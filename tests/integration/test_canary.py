"""Trials that go by themselves, on a real Redis: raised, promoted, kept back, left undecided, taken over, and twice at once."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from registry.canary_policy import CanaryPolicy
from registry.errors import RolloutMoved
from registry.keys import Keys
from registry.policy import Policy
from registry.records import Event, Feedback, Interaction, Replica, Run, RunSpec, now
from registry.registry import Registry
from registry.settings import RegistrySettings
from registry.store import Reached
from service.exchanges import Exchange
from service.tally import Tally
from swarm_worker.canary import BY, newest_first, tend, tend_trials
from swarm_worker.gate import spending
from swarm_worker.run import RunDriver
from swarm_worker.settings import WorkerSettings
from swarm_worker.trial import trial_of
from swarm_worker.verdict import judge
from tests.peft_folders import write_adapter
from tests.redis_server import RedisServer

BOT = "bot"
CANARY = CanaryPolicy(automatic=True, dwell=0, early_ratings=100, max_ratings=600)
numbers = iter(range(1_000_000))


def set_up(registry: Registry, folder: Path, canary: CanaryPolicy = CANARY) -> None:
    """Two versions, the first champion, and a policy by which trials go by themselves."""
    for number in range(2):
        write_adapter(folder / f"expert-{number}", seed=number)
        registry.register(BOT, folder / f"expert-{number}", by="test")
    registry.promote(BOT, 1, by="test")
    registry.set_policy(BOT, Policy(canary=canary), by="test")


@pytest.fixture
def bots(registry: Registry, tmp_path: Path) -> Registry:
    set_up(registry, tmp_path)
    return registry


def rate(registry: Registry, version: int, n: int, mean: float, **told: Any) -> list[Feedback]:
    """``n`` answers of the version, so many of them rated up that their mean is ``mean``. ``told``: more of each feedback."""
    up = round(n * mean)
    fields = {"adapter": BOT, "version": version, "prompt": "q", "answer": "a", "at": now()} | told
    said = [
        Feedback(
            **{"rating": float(number < up)} | fields | {"id": (name := f"fb-{next(numbers)}"), "prompt": f"q {name}"}
        )
        for number in range(n)
    ]
    registry.feedback.add_many(said)
    registry.figures.add_many({(BOT, version): {"requests": n}})
    return said


def a_run(registry: Registry, version: int = 2, since: int | None = None) -> tuple[RunDriver, Run]:
    """A run whose find, version 2, has passed the gate and is about to be delivered. ``since``: the revision it began at."""
    driver = RunDriver(registry, WorkerSettings(), lambda message: None, lambda run_id, seconds: None)
    run = Run(
        id=f"run-{next(numbers)}",
        spec=RunSpec(adapter=BOT),
        status="promoting",
        version=version,
        created_at=now(),
        created_by="test",
        rollout_revision=registry.rollout(BOT).revision if since is None else since,
        decision={"reason": "+5.0 points"},
    )
    registry.runs.create(run)
    driver.advance(run.id)
    return driver, registry.runs.get(run.id)


def last(registry: Registry) -> Event:
    return next(iter(newest_first(registry, BOT)))


def test_a_runs_find_goes_up_step_by_step_and_is_promoted(bots: Registry) -> None:
    """Begun with the first share, raised when enough was rated at each, promoted on evidence; the history holds the figures, and
    the run ends with the trial."""
    driver, run = a_run(bots)
    assert (run.status, run.outcome) == ("canary", "on trial with 5% of the traffic")
    shares = [bots.rollout(BOT).challenger_share]
    for _ in range(20):
        rate(bots, 1, 200, 0.5)
        rate(bots, 2, 120, 0.8)
        tend_trials(bots)
        driver.look_after()
        rollout = bots.rollout(BOT)
        if rollout.challenger is None:
            break
        shares.append(rollout.challenger_share)
    assert shares == [0.05, 0.25, 0.5]
    assert bots.rollout(BOT).champion == 2
    event = last(bots)
    assert (event.kind, event.by, event.before, event.after) == ("promoted", BY, 1, 2)
    assert event.details["trial"]["run"] == run.id
    assert event.details["trial"]["figures"]["ratings"]["low"] > 0
    assert event.details["gate"] == {"reason": "+5.0 points"}
    assert "rated better: 0.800 of 360 ratings" in str(event)
    ended = bots.runs.get(run.id)
    assert (ended.status, ended.promoted) == ("done", True)
    assert ended.outcome.startswith("Promoted bot@2: it is rated better")
    states = [state.outcome for state in bots.runs.changes_after(run.id, "0")[1]]
    assert "on trial with 25% of the traffic" in states


def test_a_worse_version_is_kept_back(bots: Registry) -> None:
    """Rated lower beyond doubt: the trial ends, nothing promotes the version by itself again, the run says why."""
    driver, run = a_run(bots)
    rate(bots, 1, 600, 0.7)
    rate(bots, 2, 40, 0.1)
    (told,) = tend_trials(bots)
    assert "worse" in told
    rollout = bots.rollout(BOT)
    assert (rollout.champion, rollout.challenger, rollout.withdrawn) == (1, None, (2,))
    driver.look_after()
    ended = bots.runs.get(run.id)
    assert (ended.status, ended.promoted, ended.lost_trial) == ("done", False, True)
    assert "kept back: it is rated lower: 0.100 of 40 ratings, the champion 0.700 of 600" in ended.outcome
    _, again = a_run(bots)
    assert (again.status, again.promoted) == ("done", False)
    assert "rolled back" in again.outcome


def test_an_equal_version_is_left_undecided(bots: Registry) -> None:
    """After its early ratings it does not lead: the champion stays, and nobody is to blame."""
    driver, run = a_run(bots)
    rate(bots, 1, 1900, 0.6)
    rate(bots, 2, 100, 0.6)
    assert len(tend_trials(bots)) == 1
    rollout = bots.rollout(BOT)
    assert (rollout.champion, rollout.challenger, rollout.withdrawn) == (1, None, ())
    driver.look_after()
    assert "not promoted: it does not lead after 100 ratings" in bots.runs.get(run.id).outcome


def test_only_what_was_said_during_the_trial_counts(bots: Registry) -> None:
    """Ratings from before it began, however many, decide nothing; those at each share are compared apart."""
    rate(bots, 1, 1000, 0.1)
    rate(bots, 2, 1000, 0.9)
    a_run(bots)
    assert tend_trials(bots) == []
    rate(bots, 1, 500, 0.5)
    rate(bots, 2, 29, 0.5)
    assert tend_trials(bots) == []
    trial = trial_of(bots.rollout(BOT), newest_first(bots, BOT))
    assert trial is not None
    ((ours, theirs),) = trial.strata(bots.figures.sums(BOT, (1, 2)))
    assert (ours["ratings"], theirs["ratings"]) == (29, 500)


@pytest.mark.parametrize("field", ["errors", "slow"])
def test_a_version_that_fails_or_is_slow_is_kept_back(bots: Registry, field: str) -> None:
    """Its ratings may be as they are."""
    a_run(bots)
    slow = {"waits": 60.0, "wait_logs": 60 * 1.0, "wait_log_squares": 60 * 1.1}
    champion = {"requests": 600.0, "waits": 600.0, "wait_logs": 600 * -1.0, "wait_log_squares": 600 * 1.1}
    bots.figures.add_many(
        {(BOT, 1): champion, (BOT, 2): {"requests": 60.0, "errors": 20.0} if field == "errors" else slow}
    )
    assert len(tend_trials(bots)) == 1
    assert bots.rollout(BOT).withdrawn == (2,)
    assert ("fails more often" in last(bots).reason) == (field == "errors")


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_version_that_users_give_up_on_is_kept_back(bots: Registry, streamed: bool) -> None:
    """It gives one of ten its answer at once, the others leave before they have read a word: no error, no rating, no answer
    that took long. By a replica's own counting, and a policy's defaults."""
    bots.set_policy(BOT, Policy(canary=CanaryPolicy(automatic=True, dwell=0)), by="test")
    a_run(bots)
    tally = Tally(bots.figures)

    def answered(version: int, **more: Any) -> None:
        tally.answered(
            Exchange(request_id="r", model=BOT, version=f"{BOT}@{version}", session=None, prompt="q", **more)
        )

    quick: dict[str, Any] = {"seconds": 1.0, "streamed": streamed}
    for number in range(400):
        answered(1, **quick)
        answered(2, **quick if number % 10 == 0 else quick | {"aborted": True, "seconds": 30.0})
    await tally.flush()
    (said,) = tend_trials(bots)
    assert "its users wait" in said
    assert bots.rollout(BOT).withdrawn == (2,)


def test_the_dwell_is_kept(registry: Registry, tmp_path: Path) -> None:
    """However good it looks, a share is held as long as the policy says; and a trial is over when its time is."""
    set_up(registry, tmp_path, CANARY.model_copy(update={"dwell": 3600.0}))
    a_run(registry)
    rate(registry, 1, 1000, 0.5)
    rate(registry, 2, 300, 0.9)
    assert tend_trials(registry) == []
    registry.set_policy(BOT, Policy(canary=CANARY.model_copy(update={"longest": 0.0, "dwell": 3600.0})), by="test")
    assert "over its time" in tend_trials(registry)[0]
    assert registry.rollout(BOT).withdrawn == ()


def test_two_ticks_at_once_make_one_move(bots: Registry, registry_settings: RegistrySettings) -> None:
    """Eight ticks in eight processes' worth of connections: the history has one move more."""
    a_run(bots)
    rate(bots, 1, 600, 0.7)
    rate(bots, 2, 110, 0.9)
    before = bots.rollout(BOT).revision
    others = [Registry.open(registry_settings) for _ in range(8)]
    start = threading.Barrier(len(others))

    def tick(one: Registry) -> None:
        start.wait()
        tend_trials(one)

    threads = [threading.Thread(target=tick, args=(one,)) for one in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in others:
        one.close()
    assert bots.rollout(BOT).revision == before + 1
    assert bots.rollout(BOT).challenger_share == 0.25
    assert tend_trials(bots) == []  # nothing was rated at the new share yet


def test_a_person_who_moves_the_rollout_ends_the_run(bots: Registry) -> None:
    """Whoever promotes, rolls back or ends the trial meanwhile wins; the run ends and says who did what."""
    driver, run = a_run(bots)
    bots.end_canary(BOT, by="ann", reason="a complaint")
    assert tend_trials(bots) == []
    driver.look_after()
    ended = bots.runs.get(run.id)
    assert (ended.status, ended.promoted, ended.lost_trial) == ("done", False, False)
    assert "went to a person: ann ended the trial of bot@2: a complaint" in ended.outcome


def test_a_share_that_a_person_sets_makes_the_trial_theirs(bots: Registry) -> None:
    """It is raised and promoted no more, but still ended when the version is worse."""
    driver, run = a_run(bots)
    bots.start_canary(BOT, 2, 0.5, by="ann")
    driver.look_after()
    assert "went to a person: ann put bot@2 on trial" in bots.runs.get(run.id).outcome
    rate(bots, 1, 700, 0.5)
    rate(bots, 2, 700, 0.9)
    assert tend_trials(bots) == []
    rate(bots, 1, 700, 0.9)
    rate(bots, 2, 1400, 0.1)
    assert len(tend_trials(bots)) == 1
    assert bots.rollout(BOT).withdrawn == (2,)


def test_a_move_between_look_and_move_is_not_overrun(bots: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tick that decided on a rollout which a person moves at that very moment moves nothing."""
    a_run(bots)
    rate(bots, 1, 600, 0.7)
    rate(bots, 2, 110, 0.9)
    stale = bots.rollout(BOT)
    bots.promote(BOT, 1, by="ann", reason="stop")
    monkeypatch.setattr(bots, "rollout", lambda adapter: stale)
    with pytest.raises(RolloutMoved):
        tend(bots, BOT, bots.policy(BOT)[0])
    assert last(bots).by == "ann"


def test_a_trial_beside_another_is_refused(bots: Registry, tmp_path: Path) -> None:
    """A person's trial goes on; the run's find is registered and left."""
    write_adapter(tmp_path / "third", seed=3)
    bots.register(BOT, tmp_path / "third", by="test")
    bots.start_canary(BOT, 3, 0.1, by="ann")
    for trials in (True, False):  # what is not tried is promoted, and would end hers as well
        bots.set_policy(BOT, Policy(canary=CanaryPolicy(automatic=trials)), by="test")
        _, run = a_run(bots)
        assert (run.status, run.promoted, run.lost_trial) == ("done", False, False)
        assert "bot@3 is on trial" in run.outcome
        assert (bots.rollout(BOT).champion, bots.rollout(BOT).challenger) == (1, 3)


def test_a_cancelled_run_ends_its_trial(bots: Registry) -> None:
    """Cancelled means: what it found answers nobody any more."""
    _, run = a_run(bots)
    bots.runs.cancel(run.id, outcome="test")
    assert "its run was cancelled" in tend_trials(bots)[0]
    assert bots.rollout(BOT).challenger is None


def test_a_policy_that_changes_is_followed(bots: Registry) -> None:
    """Trials no longer by themselves: the run ends and leaves it to a person. Promotions left to a person: a better one ends."""
    driver, run = a_run(bots)
    bots.set_policy(BOT, Policy(), by="test")
    assert tend_trials(bots) == []
    driver.look_after()
    assert "left to a person" in bots.runs.get(run.id).outcome
    bots.set_policy(BOT, Policy(promote=False, canary=CANARY), by="test")
    rate(bots, 1, 700, 0.5)
    rate(bots, 2, 700, 0.9)
    assert "leaves promotions to a person" in tend_trials(bots)[0]
    assert bots.rollout(BOT).champion == 1


def test_a_replica_that_cannot_follow_keeps_the_champion(bots: Registry) -> None:
    """One that is not ready is waited for; one that cannot serve the version ends its trial with the reason."""
    canary = CANARY.model_copy(update={"steps": (0.5,)})
    bots.set_policy(BOT, Policy(canary=canary), by="test")
    a_run(bots)
    rate(bots, 1, 700, 0.5)
    rate(bots, 2, 700, 0.9)
    replica = Replica(id="one", at=now(), holds=("bot@1",))
    bots.replicas.beat(replica)
    assert tend_trials(bots) == []
    assert (BOT, 2) in bots.replicas.wanted()
    told = (
        "no memory\n\x1b" + "x" * 3000
    )  # an engine's own words: they are made a reason, on one line and no longer than one
    bots.replicas.beat(replica.model_copy(update={"refused": {"bot@2": told}}))
    assert "a replica cannot serve it: one: no memory" in tend_trials(bots)[0]
    reason = bots.history(BOT, limit=1)[0].reason
    assert (len(reason), reason.isprintable()) == (2000, True)
    assert bots.rollout(BOT).champion == 1
    assert bots.rollout(BOT).withdrawn == ()


def test_a_tick_hears_no_refusal_of_an_earlier_wish(bots: Registry) -> None:
    """A replica that could not serve the version for an earlier move tries again; ready, it gets the version, and nothing goes on
    being asked of it."""
    bots.set_policy(BOT, Policy(canary=CANARY.model_copy(update={"steps": (0.5,)})), by="test")
    a_run(bots)
    rate(bots, 1, 700, 0.5)
    rate(bots, 2, 700, 0.9)
    earlier = bots.replicas.ask(BOT, 2)
    bots.replicas.withdraw(BOT, 2, earlier)
    bots.replicas.beat(Replica(id="one", at=now(), refused={"bot@2": "no memory"}, heard={"bot@2": earlier}))
    assert tend_trials(bots) == []
    assert bots.replicas.wishes() == [(BOT, 2, earlier + 1)]
    bots.replicas.beat(Replica(id="one", at=now(), holds=("bot@1", "bot@2")))
    assert "bot@2 is promoted" in tend_trials(bots)[0]
    assert bots.replicas.wishes() == []


def test_a_shadow_is_no_trial(bots: Registry) -> None:
    """What answers nobody is rated by nobody: left as it is."""
    bots.start_canary(BOT, 2, by="ann", shadow=True)
    rate(bots, 1, 600, 0.9)
    rate(bots, 2, 600, 0.1)
    assert tend_trials(bots) == []


def test_a_trial_survives_redis(
    redis_process: RedisServer, registry_settings: RegistrySettings, tmp_path: Path
) -> None:
    """Redis killed and started again in the middle: the trial is the same, and goes on from what was said before."""
    settings = registry_settings.model_copy(update={"redis_url": redis_process.url})
    registry = Registry.open(settings)
    try:
        set_up(registry, tmp_path)
        a_run(registry)
        rate(registry, 1, 300, 0.7)
        rate(registry, 2, 25, 0.1)
        before = trial_of(registry.rollout(BOT), newest_first(registry, BOT))
        redis_process.kill()
        redis_process.start()
        assert trial_of(registry.rollout(BOT), newest_first(registry, BOT)) == before
        rate(registry, 2, 10, 0.1)
        assert "worse" in tend_trials(registry)[0]
    finally:
        registry.close()


@pytest.fixture
def watched(registry: Registry, tmp_path: Path) -> Registry:
    """A champion that was promoted over a version which was rated 0.8, under a policy that watches it."""
    set_up(registry, tmp_path, CANARY.model_copy(update={"watch_champion": True}))
    rate(registry, 1, 300, 0.8)
    registry.promote(BOT, 2, by="test")
    return registry


def test_a_champion_that_has_fallen_is_tried_again_and_rolled_back(watched: Registry) -> None:
    """The version before it goes on trial; found better at the same time, on the same questions, it is champion again."""
    rate(watched, 2, 99, 0.5)
    assert tend_trials(watched) == []
    rate(watched, 2, 10, 0.5)
    (told,) = tend_trials(watched)
    assert "bot@1 goes on trial" in told
    for _ in range(20):
        rate(watched, 2, 300, 0.5)
        rate(watched, 1, 120, 0.8)
        tend_trials(watched)
        if watched.rollout(BOT).challenger is None:
            break
    rollout = watched.rollout(BOT)
    assert (rollout.champion, rollout.withdrawn) == (1, (2,))
    assert (last(watched).kind, last(watched).by) == ("rolled_back", BY)


def test_the_watch_looks_behind_feedback_that_rates_nothing(watched: Registry) -> None:
    """However much else was said since: what counts are the champion's last ratings. The event holds the figures of the alarm."""
    rate(watched, 2, 120, 0.5)
    rate(watched, 2, 1000, 0.0, rating=None, comment="hm")
    assert len(tend_trials(watched)) == 1
    figures = last(watched).details["trial"]["figures"]
    assert (figures["n_champion"], figures["champion"]) == (100, pytest.approx(0.5, abs=0.1))
    assert figures["low"] > 0


def test_who_rates_one_answer_again_and_again_raises_no_alarm(watched: Registry) -> None:
    """Of a rater's ratings of one answer the last stands, for the watch as for everything else."""
    rate(watched, 2, 60, 0.8)
    rate(watched, 2, 200, 0.0, rater="ann", request_id="r1")
    assert tend_trials(watched) == []


def test_a_hard_week_is_no_bad_champion(watched: Registry) -> None:
    """Ratings fell, and the version before is rated no better now: it goes, unblamed, and is not asked again at once."""
    rate(watched, 2, 120, 0.5)
    assert len(tend_trials(watched)) == 1
    rate(watched, 2, 1900, 0.5)
    rate(watched, 1, 100, 0.45)
    assert "over, undecided" in tend_trials(watched)[0]
    rollout = watched.rollout(BOT)
    assert (rollout.champion, rollout.challenger, rollout.withdrawn) == (2, None, ())
    assert tend_trials(watched) == []


def rechecks(registry: Registry) -> list[Event]:
    """The events by which the version before the champion went on trial, newest first."""
    told = [(event, event.details.get("trial") or {}) for event in newest_first(registry, BOT)]
    return [event for event, trial in told if trial.get("recheck") and "look" in trial]


def undecided(registry: Registry) -> None:
    """The recheck of the watched champion goes on until it is given up: the version before is no better now."""
    rate(registry, 2, 1900, 0.5)
    rate(registry, 1, 100, 0.45)
    assert "over, undecided" in tend_trials(registry)[0]


def test_a_drifted_month_raises_one_alarm(watched: Registry) -> None:
    """Traffic became harder for good: after one undecided recheck the champion is held against what the version before was rated
    in that, and window after window raises nothing. One that falls below that, too, is tried again."""
    rate(watched, 2, 120, 0.5)
    assert len(tend_trials(watched)) == 1
    undecided(watched)
    for _ in range(10):
        rate(watched, 2, 120, 0.5)
        assert tend_trials(watched) == []
    assert len(rechecks(watched)) == 1
    rate(watched, 2, 120, 0.1)
    assert "bot@1 were 0.450" in tend_trials(watched)[0]
    assert len(rechecks(watched)) == 2


def test_rechecks_of_one_champion_share_one_chance(watched: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """The k-th is decided at the k-th share of ``false_moves``, also where the champion was another in between; all the shares
    there could be add up to less than one."""
    levels = []

    def spied(policy: CanaryPolicy, *args: Any, **told: Any) -> Any:
        levels.append(policy.false_moves)
        return judge(policy, *args, **told)

    monkeypatch.setattr("swarm_worker.canary.judge", spied)
    for mean in (0.5, 0.1):
        rate(watched, 2, 120, mean)
        assert len(tend_trials(watched)) == 1
        undecided(watched)
    watched.promote(BOT, 1, by="ann")
    watched.promote(BOT, 2, by="ann")
    rate(watched, 2, 120, 0.1)
    assert len(tend_trials(watched)) == 1
    tend_trials(watched)
    assert [event.details["trial"]["look"] for event in rechecks(watched)] == [3, 2, 1]
    assert list(dict.fromkeys(levels)) == pytest.approx([CANARY.false_moves * spending(look) for look in (1, 2, 3)])
    assert sum(spending(look) for look in range(1, 100_000)) < 1


def test_a_find_that_meets_a_recheck_waits_for_it(watched: Registry, tmp_path: Path) -> None:
    """The run began before the champion was tried again: it waits, and its find goes on trial when the recheck is over."""
    write_adapter(tmp_path / "third", seed=3)
    watched.register(BOT, tmp_path / "third", by="test")
    before = watched.rollout(BOT).revision
    rate(watched, 2, 120, 0.5)
    assert len(tend_trials(watched)) == 1
    driver, run = a_run(watched, 3, before)
    driver.look_after()
    assert (run.status, run.moving) == ("promoting", False)
    assert run.outcome.startswith("waits until the trial of bot@1 against the champion is over")
    undecided(watched)
    driver.look_after()
    assert watched.runs.get(run.id).status == "canary"
    assert watched.rollout(BOT).challenger == 3


def test_a_find_of_a_champion_that_was_rolled_back_is_not_delivered(watched: Registry, tmp_path: Path) -> None:
    """It was better than a champion that is none any more."""
    write_adapter(tmp_path / "third", seed=3)
    watched.register(BOT, tmp_path / "third", by="test")
    rate(watched, 2, 120, 0.5)
    assert len(tend_trials(watched)) == 1
    driver, run = a_run(watched, 3, watched.rollout(BOT).revision - 1)
    watched.roll_back(BOT, by="canary", details={"trial": {"recheck": True}})
    driver.look_after()
    ended = watched.runs.get(run.id)
    assert (ended.status, ended.promoted) == ("done", False)


def test_a_recheck_that_begins_at_that_moment_loses_no_find(
    watched: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run looked before the recheck began and moves after it: refused, it waits."""
    write_adapter(tmp_path / "third", seed=3)
    watched.register(BOT, tmp_path / "third", by="test")
    before = watched.rollout(BOT).revision
    rate(watched, 2, 120, 0.5)
    assert len(tend_trials(watched)) == 1
    seen = iter([None, 1])
    monkeypatch.setattr("swarm_worker.run.recheck_goes_on", lambda registry, adapter: next(seen))
    _, run = a_run(watched, 3, before)
    assert (run.status, run.moving) == ("promoting", False)


def test_one_newer_rollout_keeps_nobody_from_the_others(bots: Registry, tmp_path: Path) -> None:
    """A record that a newer Shoal wrote is not read here; the trials of the other adapters are tended as ever."""
    write_adapter(tmp_path / "other", seed=9)
    bots.register("aaa", tmp_path / "other", by="test")
    bots.promote("aaa", 1, by="test")
    bots.set_policy("aaa", Policy(canary=CANARY), by="test")
    newer = bots.rollout("aaa").model_copy(update={"schema_number": 99})
    bots.redis.hset(Keys(bots.settings.namespace).rollout("aaa"), "record", newer.model_dump_json())
    a_run(bots)
    rate(bots, 1, 600, 0.7)
    rate(bots, 2, 40, 0.1)
    assert "worse" in tend_trials(bots)[0]


@pytest.mark.parametrize("automatic", [False, True])
def test_a_policy_that_watches_no_more_ends_the_recheck(watched: Registry, automatic: bool) -> None:
    """The champion answers everything again, and nobody is to blame."""
    rate(watched, 2, 120, 0.5)
    assert len(tend_trials(watched)) == 1
    watched.set_policy(BOT, Policy(canary=CANARY.model_copy(update={"automatic": automatic})), by="ann")
    assert "no longer watches" in tend_trials(watched)[0]
    rollout = watched.rollout(BOT)
    assert (rollout.champion, rollout.challenger, rollout.withdrawn) == (2, None, ())
    assert tend_trials(watched) == []


@pytest.mark.parametrize("how", ["import", "survey"])
@pytest.mark.parametrize("mean", [0.0, 1.0])
def test_ratings_of_earlier_answers_decide_nothing(bots: Registry, how: str, mean: float) -> None:
    """Thousands of last week's scores come in during a trial, with their time or by the requests that they rate: the version
    is neither raised nor blamed for them."""
    yesterday = now() - timedelta(days=1)
    a_run(bots)
    rate(bots, 1, 600, 0.5)
    rate(bots, 2, 110, 0.5)
    if how == "import":
        rate(bots, 1, 3000, mean, at=yesterday)
    else:
        asked = [f"req-{next(numbers)}" for _ in range(1200)]
        bots.interactions.add_many(
            [
                Interaction(request_id=name, adapter=BOT, version=1, prompt="q", answer="a", at=yesterday)
                for name in asked
            ]
        )
        for name in asked:
            rate(bots, 1, 1, mean, request_id=name)
    (told,) = tend_trials(bots)
    assert "undecided" in told
    assert "the champion 0.500 of 600" in told
    assert bots.rollout(BOT).withdrawn == ()


def test_a_trial_goes_on_over_an_accepted_registry(bots: Registry) -> None:
    """The registry went back and was accepted in the middle of a trial: the run and the trial both go on, to one end."""
    driver, run = a_run(bots)
    bots.guard.remember({BOT: Reached(bots.rollout(BOT).revision + 3, 0)})
    bots.guard.accept(by="ann", reason="as it is")
    driver.look_after()
    assert bots.runs.get(run.id).status == "canary"
    rate(bots, 1, 600, 0.7)
    rate(bots, 2, 40, 0.1)
    assert "worse" in tend_trials(bots)[0]
    driver.look_after()
    assert "kept back: it is rated lower" in bots.runs.get(run.id).outcome


def test_a_promotion_before_a_trial_is_in_its_sums(
    bots: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody promotes between the reading of the sums and the move: they are read again, of the champion that there is. A
    caller who named a revision is told."""
    write_adapter(tmp_path / "third", seed=3)
    bots.register(BOT, tmp_path / "third", by="test")
    sums, champions = bots.figures.sums, iter([2, None, 1])

    def promoting(adapter: str, versions: Any) -> Any:
        if champion := next(champions):
            bots.promote(BOT, champion, by="ann")
        return sums(adapter, versions)

    monkeypatch.setattr(bots.figures, "sums", promoting)
    bots.start_canary(BOT, 3, 0.1, by="bob")
    assert last(bots).before == 2
    assert last(bots).details["sums"].keys() == {"2", "3"}
    with pytest.raises(RolloutMoved):
        bots.start_canary(BOT, 3, 0.2, by="bob", expected_revision=bots.rollout(BOT).revision)


def test_a_user_who_is_moved_over_promotes_nobody(bots: Registry) -> None:
    """He rated the champion once at the first share; at the later ones the version is his, and he alone likes it, a hundred times
    at each. It is raised, and not promoted."""
    a_run(bots)
    sticky = {"rater": "sticky", "by": "app"}
    rate(bots, 1, 1, 0.0, **sticky)
    rate(bots, 1, 1000, 0.5)
    rate(bots, 2, 110, 0.56)
    assert "answers 25% now" in tend_trials(bots)[0]
    rate(bots, 2, 100, 1.0, **sticky)
    rate(bots, 1, 300, 0.5)
    assert "answers 50% now" in tend_trials(bots)[0]
    rate(bots, 2, 100, 1.0, **sticky)
    rate(bots, 1, 100, 0.5)
    assert tend_trials(bots) == []
    rollout = bots.rollout(BOT)
    assert (rollout.champion, rollout.challenger, rollout.challenger_share) == (1, 2, 0.5)


def test_one_loud_user_promotes_nobody(bots: Registry) -> None:
    """Hundreds of thumbs up by one person on the version's side: the figures say better, the raters do not, and it goes on."""
    bots.set_policy(BOT, Policy(canary=CANARY.model_copy(update={"steps": (0.5,)})), by="test")
    a_run(bots)
    rate(bots, 1, 250, 0.5)
    loud = [
        Feedback(id=f"loud-{n}", adapter=BOT, version=2, prompt=f"q{n}", answer="a", rating=1.0, rater="loud", at=now())
        for n in range(250)
    ]
    bots.feedback.add_many(loud)
    assert tend_trials(bots) == []
    assert bots.rollout(BOT).challenger == 2
