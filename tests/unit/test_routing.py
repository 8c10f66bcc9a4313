"""Model ids are read as documented, and sessions stay on their side of a trial."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.records import Rollout, now
from service.routing import ModelId, choose, parse, place


def rollout(share: float = 0.3, challenger: int | None = 2) -> Rollout:
    return Rollout(adapter="bot", revision=1, champion=1, challenger=challenger, challenger_share=share, moved_at=now())


@pytest.mark.parametrize(
    ("model", "meant"),
    [
        ("bot", ModelId("bot")),
        ("bot@7", ModelId("bot", version=7)),
        ("bot@champion", ModelId("bot", selector="champion")),
        ("bot@challenger", ModelId("bot", selector="challenger")),
        ("bot@0", None),
        ("bot@07", None),
        ("bot@-1", None),
        ("bot@\u0663", None),
        ("bot@99999999999", None),
        ("bot@", None),
        ("Bot", None),
        ("../bot", None),
        ("bot{x}", None),
        ("", None),
    ],
)
def test_a_model_id_means_one_thing_or_nothing(model: str, meant: ModelId | None) -> None:
    """What is not a name, a version or a place in the rollout names nothing."""
    assert parse(model) == meant


@given(st.text(min_size=1), st.floats(0, 1), st.floats(0, 1))
def test_a_session_only_ever_moves_towards_the_challenger_while_its_share_grows(
    session: str, one: float, other: float
) -> None:
    """Sticky while the share stands, monotone while it grows."""
    low, high = sorted((one, other))
    at_low, at_high = (choose(rollout(share), "rollout", session) for share in (low, high))
    assert choose(rollout(low), "rollout", session) == at_low
    if at_low == 2:
        assert at_high == 2


def test_shares_are_kept_over_many_sessions() -> None:
    """Of 4,000 sessions about a share goes to the challenger (binomial, five standard errors)."""
    count = sum(choose(rollout(0.3), "rollout", f"user-{number}") == 2 for number in range(4000))
    assert abs(count / 4000 - 0.3) < 5 * (0.3 * 0.7 / 4000) ** 0.5


def test_places_do_not_repeat_from_trial_to_trial() -> None:
    """Another challenger draws its sessions anew: the same users are not always the ones who try."""
    places = [place(rollout(challenger=challenger), "ann") for challenger in (2, 3, 4)]
    assert len(set(places)) == 3


def test_without_a_challenger_everyone_gets_the_champion() -> None:
    """No trial, no share; and a place that nobody has is nobody."""
    assert choose(rollout(1.0, challenger=None), "rollout", "ann") == 1
    assert choose(rollout(1.0, challenger=None), "challenger", "ann") is None
