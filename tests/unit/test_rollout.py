"""The rules of a rollout, by example and by random walks."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from registry import rollout as rules
from registry.errors import BadInput, Conflict, NothingEarlier, ShoalError, VersionWithdrawn
from registry.records import Rollout

AT = datetime(2026, 1, 1, tzinfo=UTC)


def moved(*champions: int) -> Rollout:
    rollout = Rollout(adapter="bot", revision=0, moved_at=AT)
    for version in champions:
        rollout = rules.promote(rollout, version, at=AT)
    return rollout


def test_promotion_moves_forward_and_remembers_the_way() -> None:
    """A promotion makes the version champion, ends a trial, and puts the champion before it on the trail."""
    on_trial = rules.start_canary(moved(1, 2), 3, 0.2, at=AT)

    after = rules.promote(on_trial, 3, at=AT)

    assert (after.champion, after.challenger, after.challenger_share) == (3, None, 0.0)
    assert after.trail == (1, 2)
    assert after.revision == on_trial.revision + 1


def test_promoting_the_champion_again_leaves_the_trail() -> None:
    """Promoting the champion again is a move, but no step on the trail."""
    assert moved(1, 2, 2).trail == (1,)
    assert moved(1, 2, 2).revision == 3


def test_rolling_back_twice_goes_further_back() -> None:
    """Without a target, each rollback goes one champion further back, never forward; at the end it is refused."""
    once = rules.roll_back(moved(1, 2, 3), at=AT)
    twice = rules.roll_back(once, at=AT)

    assert (once.champion, twice.champion) == (2, 1)
    assert twice.withdrawn == (3, 2)
    with pytest.raises(NothingEarlier, match=r"before version 1, .* nothing moved\. .*`shoal rollback \S+ --to N`"):
        rules.roll_back(twice, at=AT)


def test_rollback_to_a_version_cuts_the_trail_there() -> None:
    """After a rollback to an older champion the next one goes on from there."""
    after = rules.roll_back(moved(1, 2, 3, 4), 2, at=AT)

    assert (after.champion, after.trail) == (2, (1,))


@pytest.mark.parametrize("to", [3, 4, 9])
def test_rollback_is_never_forward(to: int) -> None:
    """The champion itself and versions after it are refused, unless they were champion before."""
    with pytest.raises(NothingEarlier):
        rules.roll_back(moved(1, 2, 3), to, at=AT)


def test_rollback_may_go_to_a_later_number_that_was_champion_before() -> None:
    """Earlier is meant in time: after 5 then 2, rolling back leads to 5."""
    assert rules.roll_back(moved(5, 2), at=AT).champion == 5
    assert rules.roll_back(moved(5, 2), 5, at=AT).champion == 5


def test_a_withdrawn_version_returns_by_hand_only() -> None:
    """What was rolled back is not promoted by itself; by hand it is, and is then no longer withdrawn."""
    after = rules.roll_back(moved(1, 2), at=AT)

    with pytest.raises(VersionWithdrawn):
        rules.promote(after, 2, at=AT, by_itself=True)
    assert rules.promote(after, 2, at=AT).withdrawn == ()


@pytest.mark.parametrize("shadow", [False, True])
def test_nothing_ends_a_persons_trial_by_itself(shadow: bool) -> None:
    """A promotion that nobody asked for is refused beside another version's trial or shadow, and says which; that of the version
    on trial is its end, and a person may do either."""
    on_trial = rules.start_canary(moved(1), 3, 0.2, at=AT, shadow=shadow)
    with pytest.raises(Conflict, match="bot@3 is on trial"):
        rules.promote(on_trial, 2, at=AT, by_itself=True)
    assert rules.promote(on_trial, 3, at=AT, by_itself=True).champion == 3
    assert rules.promote(on_trial, 2, at=AT).champion == 2


@pytest.mark.parametrize(("version", "share"), [(2, 0.1), (1, 1.1), (1, -0.1)])
def test_a_trial_needs_another_version_and_a_share(version: int, share: float) -> None:
    """The champion cannot be its own challenger, and a share lies between 0 and 1."""
    with pytest.raises(BadInput):
        rules.start_canary(moved(1, 2), version, share, at=AT)


def test_a_trial_needs_a_champion_and_ends_once() -> None:
    """Without a champion there is no trial; a trial that is over cannot end again."""
    with pytest.raises(BadInput):
        rules.start_canary(moved(), 1, 0.5, at=AT)
    with pytest.raises(BadInput):
        rules.end_canary(moved(1), at=AT)


def test_a_shadow_trial_answers_nobody_until_it_gets_a_share() -> None:
    """In the shadow the challenger has no share; a share takes it out of the shadow, and every end of a trial does."""
    shadow = rules.start_canary(moved(1), 2, 0.3, at=AT, shadow=True)
    assert (shadow.challenger, shadow.challenger_share, shadow.shadow) == (2, 0.0, True)

    shared = rules.start_canary(shadow, 2, 0.3, at=AT)
    assert (shared.challenger_share, shared.shadow) == (0.3, False)
    assert not rules.end_canary(shadow, at=AT).shadow
    assert not rules.promote(shadow, 2, at=AT).shadow
    assert not rules.roll_back(rules.start_canary(moved(1, 3), 2, 0.0, at=AT, shadow=True), at=AT).shadow


def test_pinned_versions_are_not_retired_others_leave_the_trail() -> None:
    """Champion, challenger and the way back stay; a retired version is on no trail any more."""
    rollout = moved(1, 2, 1, 3, 4)

    for version in (4, 3):
        with pytest.raises(Conflict):
            rules.retire(rollout, version, at=AT)
    assert rules.retire(rollout, 2, at=AT).trail == (1, 3)


MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("promote"), st.integers(1, 6), st.booleans()),
        st.tuples(st.just("roll_back"), st.one_of(st.none(), st.integers(1, 6)), st.none()),
        st.tuples(st.just("start_canary"), st.integers(1, 6), st.floats(0, 1)),
        st.tuples(st.just("end_canary"), st.none(), st.none()),
        st.tuples(st.just("retire"), st.integers(1, 6), st.none()),
    ),
    max_size=30,
)


@given(MOVES)
@example([("promote", version, False) for version in (1, 3, 1, 3)] + [("roll_back", 2, None)])
def test_what_holds_after_any_moves(moves: list[tuple]) -> None:
    """The revision counts the moves; the champion is never its own way back; a trail has no step to itself."""
    rollout, done = moved(), 0
    for kind, version, extra in moves:
        before = rollout
        try:
            if kind == "promote":
                rollout = rules.promote(rollout, version, at=AT, by_itself=extra)
            elif kind == "start_canary":
                rollout = rules.start_canary(rollout, version, extra, at=AT)
            elif kind == "end_canary":
                rollout = rules.end_canary(rollout, at=AT)
            elif kind == "retire":
                rollout = rules.retire(rollout, version, at=AT)
            else:
                rollout = rules.roll_back(rollout, version, at=AT)
        except ShoalError:
            assert rollout == before
            continue
        done += 1
        assert rollout.revision == done
        assert rollout.challenger is None or rollout.challenger != rollout.champion
        assert rollout.champion not in rollout.withdrawn
        steps = (*rollout.trail, rollout.champion)
        assert all(one != other for one, other in pairwise(steps))
        if kind == "roll_back":
            assert len(rollout.trail) < len(before.trail) or not before.trail or version is not None
