"""The canary's bench: its bars, and its stage, on which a few real trials are played."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.canary import POLICY, met, null_met
from bench.trial_stage import Way, stage
from registry.settings import RegistrySettings
from tests.peft_folders import write_adapter

CLEAN = {
    "bad": 20,
    "bad_rolled_back": 20,
    "broken": 3,
    "broken_rolled_back": 3,
    "answers_by_bad_max": 200,
    "good": 20,
    "good_promoted": 18,
    "equal": 40,
    "false_moves": 2,
}


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("bad_rolled_back", 19),
        ("broken_rolled_back", 2),
        ("answers_by_bad_max", 201),
        ("good_promoted", 17),
        ("false_moves", 3),
    ],
)
def test_each_bar_counts(field: str, wrong: int) -> None:
    """Figures at the bars are met; each one beyond its bar is not."""
    assert met(CLEAN)
    assert not met(CLEAN | {field: wrong})


def test_the_bar_of_whole_runs_needs_forty() -> None:
    """One promotion in twenty runs with nothing to find is allowed, of forty runs at least."""
    assert null_met({"null_runs": 40, "false_promotions": 2})
    assert not null_met({"null_runs": 40, "false_promotions": 3})
    assert not null_met({"null_runs": 39, "false_promotions": 0})


async def test_a_trial_on_the_stage_is_decided_by_what_users_say(
    registry_settings: RegistrySettings, tmp_path: Path
) -> None:
    """Through the real service: a version that breaks the format is kept back after some dozen answers, one that everybody
    likes is promoted, and the champion of the next trial is that one."""
    folders = [write_adapter(tmp_path / str(number), seed=number) for number in range(3)]
    policy = POLICY.model_copy(update={"steps": (0.5,), "early_ratings": 50, "max_ratings": 100})
    async with stage(registry_settings, tmp_path / "home", folders, policy, seed=0) as trials:
        broken = await trials.trial(2, Way(0.6), Way(0.6, keeps_format=False))
        assert broken.verdict == "worse", broken.reason
        assert broken.own <= 100
        liked = await trials.trial(3, Way(0.3), Way(1.0))
        assert (liked.verdict, liked.run.promoted) == ("promoted", True), liked.reason
        assert trials.registry.rollout(trials.adapter).champion == 3
        assert trials.registry.rollout(trials.adapter).withdrawn == (2,)
