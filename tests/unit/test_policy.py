"""When a run is due: a policy and what is known of an adapter, without a server."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.drop_policy import DropPolicy
from registry.errors import BadInput
from registry.policy import Policy
from registry.quiet_hours import day_began, is_quiet
from registry.records import RunOptions, RunSpec
from swarm_worker.drop import drop_of
from swarm_worker.policy import Seen, due
from swarm_worker.settings import WorkerSettings

NEVER = WorkerSettings()
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")
ZONES = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe"])
INSTANTS = st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1)).map(lambda at: at.replace(tzinfo=UTC))
TIMES = st.times().map(lambda clock: clock.replace(second=0, microsecond=0))


def hours(begins: time, ends: time) -> str:
    return f"{begins:%H:%M}-{ends:%H:%M}"


def seen(**known: object) -> Seen:
    return Seen(**({"at": NOON, "since": 1e9, "fresh": 10**6} | known))  # type: ignore[arg-type]


@settings(deadline=None)
@given(INSTANTS, ZONES, TIMES, TIMES)
def test_a_moment_is_in_a_window_or_in_the_other_half_of_the_day(
    at: datetime, name: str, begins: time, ends: time
) -> None:
    """22:00-06:00 and 06:00-22:00 share no moment and leave none out, over midnight and when clocks change."""
    if begins == ends:
        return
    zone = ZoneInfo(name)
    assert is_quiet(hours(begins, ends), zone, at) != is_quiet(hours(ends, begins), zone, at)
    clock = at.astimezone(zone).time()
    if begins < ends:
        assert is_quiet(hours(begins, ends), zone, at) == (begins <= clock < ends)


def test_a_night_is_as_long_as_the_clock_on_the_wall_makes_it() -> None:
    """22:00-06:00 in Berlin: 8 hours; 7 when clocks go forward in it, 9 when they go back."""

    def length(evening: datetime) -> int:
        noon = evening.astimezone(UTC)
        return sum(is_quiet("22:00-06:00", BERLIN, noon + timedelta(minutes=m)) for m in range(24 * 60))

    days = [datetime(2026, 1, 10, 12), datetime(2026, 3, 28, 12), datetime(2026, 10, 24, 12)]
    assert [length(day.replace(tzinfo=BERLIN)) for day in days] == [480, 420, 540]


@settings(deadline=None)
@given(INSTANTS, ZONES)
def test_a_day_begins_at_its_midnight(at: datetime, name: str) -> None:
    """At or before the moment, at 00:00 of the same date on that clock, and no day is longer than 25 hours."""
    began, zone = day_began(ZoneInfo(name), at), ZoneInfo(name)
    assert timedelta(0) <= at - began < timedelta(hours=25)
    local = began.astimezone(zone)
    assert (local.date(), local.time()) == (at.astimezone(zone).date(), time(0))


@settings(deadline=None)
@given(
    every=st.none() | st.floats(0, 1e4),
    enough=st.none() | st.integers(1, 300),
    after=st.none() | st.integers(1, 300),
    setting=st.sampled_from([0.0, 60.0]),
    since=st.floats(0, 2e4),
    fresh=st.integers(0, 400),
)
def test_a_run_is_due_by_time_with_enough_feedback_or_by_feedback_alone(
    every: float | None, enough: int | None, after: int | None, setting: float, since: float, fresh: int
) -> None:
    """And never without any new feedback: a run that found nothing is not started again for the same reason."""
    policy = Policy(adapt_every=every, adapt_min_new=enough, adapt_after=after)
    settings = WorkerSettings(adapt_every=setting, adapt_min_new=100)
    waits, needs = setting if every is None else every, enough or 100
    expected = (waits > 0 and since >= waits and fresh >= needs) or (after is not None and fresh >= after)
    told = due(policy, settings, seen(since=since, fresh=fresh))
    assert (told is not None) == expected
    assert told is None or fresh > 0


@settings(deadline=None)
@given(fresh=st.integers(0, 10**6), since=st.floats(0, 1e9))
def test_never_is_never(fresh: int, since: float) -> None:
    """Whatever else the policy and the settings say."""
    policy = Policy(adapt="never", adapt_every=1, adapt_after=1)
    assert due(policy, WorkerSettings(adapt_every=1), seen(fresh=fresh, since=since)) is None


def test_what_holds_a_run_back() -> None:
    """A run that is going, the quiet hours on the clock of the zone, and the day's cap."""
    policy = Policy(adapt_after=1, quiet_hours="13:00-15:00", time_zone="Europe/Berlin", runs_a_day=2)
    late = NOON + timedelta(hours=2)  # 16:00 in Berlin
    assert due(policy, NEVER, seen(at=NOON)) is None
    assert due(policy, NEVER, seen(at=late, today=1)) is not None
    assert due(policy, NEVER, seen(at=late, today=2)) is None
    assert due(policy, NEVER, seen(at=late, going=True)) is None


@pytest.mark.parametrize(
    ("given_", "told"),
    [
        ({"adapt_evry": 1}, "'adapt_evry': there is no such field; there are adapt, adapt_every"),
        ({"run": {"optimiser": "x"}}, "'run.optimiser': there is no such field; there are utility, optimizer"),
        ({"run": {"max_seconds": 0}}, "'run.max_seconds'"),
        ({"quiet_hours": "22-6"}, "'quiet_hours': write two times of the day such as '22:00-06:00'"),
        ({"quiet_hours": "06:00-06:00"}, "adapt: never"),
        ({"time_zone": "Mars/Olympus"}, "IANA name"),
        ({"adapt": "sometimes"}, "'adapt'"),
    ],
)
def test_what_is_wrong_is_named(given_: dict[str, object], told: str) -> None:
    """Field, remedy, and of a record within the policy its own fields."""
    with pytest.raises(BadInput, match=told.replace("(", r"\(")):
        Policy.read(given_)


def test_a_policy_of_before_reads_as_it_was_meant() -> None:
    """Schema 1: the flat fields, and every new one at its default."""
    old = '{"adapt_every":21600.0,"adapt_min_new":null,"promote":false,"canary":{"share":0.1},"schema_number":1}'
    policy = Policy.model_validate_json(old)
    assert (policy.adapt_every, policy.promote, policy.canary.share) == (21600.0, False, 0.1)
    assert (policy.adapt, policy.adapt_after, policy.quiet_hours, policy.run) == ("when_due", None, None, RunOptions())


def test_a_spec_is_filled_from_the_policy_where_its_caller_left_it_open() -> None:
    """What the caller says wins, a default that the caller spells out included."""
    options = RunOptions(optimizer="random_search", space="factors", max_item_generations=5000, search_items=50)
    filled = RunSpec(adapter="bot", space="delta", search_items=80, reason="why").filled(options)
    assert (filled.optimizer, filled.max_item_generations, filled.reason) == ("random_search", 5000, "why")
    assert (filled.space, filled.search_items) == ("delta", 80)


def test_a_fall_is_shown_where_there_is_one_and_rarely_where_there_is_none() -> None:
    """100 ratings each at level 0.99, 2,000 champions: about 1% alarm for nothing; 25 points less is seen 9 times of 10; with a
    margin of 10 points a fall of 10 is none."""
    rng = np.random.default_rng(9)

    def share(after: float, **asked: float) -> float:
        policy = DropPolicy(**asked)  # type: ignore[arg-type]
        alarms = 0
        for _ in range(2000):
            ratings = [*(rng.random(100) < 0.7).astype(float), *(rng.random(100) < after).astype(float)]
            drop = drop_of(ratings, 200, policy)
            alarms += drop is not None and drop.dropped
        return alarms / 2000

    assert share(0.7) < 0.01 + 3 * (0.01 * 0.99 / 2000) ** 0.5
    assert share(0.45) > 0.85
    assert share(0.6, by=0.1) < 0.01 + 3 * (0.01 * 0.99 / 2000) ** 0.5


@settings(deadline=None)
@given(held=st.integers(0, 300), new=st.integers(0, 300))
def test_a_block_is_tested_when_it_is_whole_and_answers_for_no_more_than_came_since(held: int, new: int) -> None:
    """Of ratings that say when they came, the latest are of one block that began when the last run did, or behind the first."""
    ratings = [float(place) for place in range(held + new)]
    drop = drop_of(ratings, new, DropPolicy(ratings=20))
    begins = max(held, 20)
    whole = (held + new - begins) // 20
    assert (drop is None) == (whole < 1)
    if drop is not None:
        start = begins + (whole - 1) * 20
        assert drop.latest == sum(ratings[start : start + 20]) / 20
        assert drop.first == sum(ratings[:20]) / 20


def test_ratings_that_are_all_alike_are_no_certainty() -> None:
    """20 of 20 good and then 20 of 20 bad is a fall; 20 and then 19 is none; and nothing divides by 0."""
    policy = DropPolicy(ratings=20)
    assert drop_of([1.0] * 20 + [0.0] * 20, 40, policy).dropped  # type: ignore[union-attr]
    assert not drop_of([1.0] * 39 + [0.0], 40, policy).dropped  # type: ignore[union-attr]
    assert not drop_of([1.0] * 40, 40, policy).dropped  # type: ignore[union-attr]


def test_a_gate_with_a_tolerance_needs_a_trial() -> None:
    """It promises no gain: without a trial nobody would have said that the find is better."""
    with pytest.raises(BadInput, match="'canary': a gate with a tolerance promises no gain, so users must decide"):
        Policy.read({"gate": {"tolerance": 0.02}})
    with pytest.raises(BadInput, match="'canary'"):
        Policy.read({"gate": {"tolerance": 0.02}, "canary": {"automatic": False}})
    assert Policy.read({"gate": {"tolerance": 0.02}, "canary": {"automatic": True}}).gate.tolerance == 0.02
