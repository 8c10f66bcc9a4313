"""The gate: a paired bootstrap that a person can read."""

from __future__ import annotations

import numpy as np
import pytest

from registry.gate_policy import GatePolicy
from swarm_worker.gate import decide, paired_bootstrap, power


def accuracies(n: int, before: float, after: float) -> tuple[list[float], list[float]]:
    """n items, the first ones right: every item that was right before stays right."""
    return [float(i < before * n) for i in range(n)], [float(i < after * n) for i in range(n)]


def test_a_real_gain_passes_in_one_sentence() -> None:
    """The reason says both scores, how many items, the gain and its interval."""
    decision = decide(*accuracies(150, 0.52, 0.78), seed=1)
    assert decision.passed
    assert decision.reason.startswith("78.0% against 52.0% on 150 unseen items: +26.0 points (95% interval +")
    assert decision.low > 0.15
    assert decision.p_better == 1.0


def test_no_change_does_not_pass() -> None:
    """The same scores give a difference of 0 and no gain, even with a sign that floats could lose."""
    decision = decide(*accuracies(100, 0.5, 0.5), seed=1)
    assert not decision.passed
    assert "+0.0 points (95% interval +0.0 to +0.0)" in decision.reason


def test_worse_says_so() -> None:
    """A loss beyond the noise is called one."""
    decision = decide(*accuracies(150, 0.8, 0.5), seed=1)
    assert not decision.passed
    assert decision.reason.endswith("it is worse")


def test_too_few_items_never_pass() -> None:
    """Ten wins of ten are not enough, and the reason says how many would be."""
    decision = decide([0.0] * 10, [1.0] * 10, seed=1)
    assert not decision.passed
    assert "10 of at least 30" in decision.reason


def test_corrections_alone_are_not_tested() -> None:
    """Where the champion's failures chose the items any change looks better: nothing is decided, and no look is spent."""
    decision = decide([0.0] * 100, [1.0] * 100, seed=1, accepted=19)
    assert (decision.passed, decision.tested) == (False, False)
    assert "19 of at least 20 (gate.min_accepted)" in decision.reason
    assert decide([0.0] * 100, [1.0] * 100, seed=1, accepted=20).passed
    assert decide([0.0] * 100, [1.0] * 100, seed=1, accepted=0, gate=GatePolicy(min_accepted=0)).passed


@pytest.mark.parametrize(("praise", "blame", "least", "most"), [(0.5, 0.5, 0.0, 0.05), (0.4, 0.5, 0.1, 0.3)])
def test_the_gate_sees_what_users_speak_of(praise: float, blame: float, least: float, most: float) -> None:
    """Of an equal challenger: it keeps its promise where right and wrong answers are spoken of alike, and cannot where failures
    are spoken of more readily, which docs/adaptation.md says."""
    rng = np.random.default_rng(3)
    passed = 0
    for trial in range(200):
        before, after = (rng.random(2000) < 0.45).astype(float), (rng.random(2000) < 0.45).astype(float)
        spoken = np.flatnonzero(rng.random(2000) < np.where(before == 1, praise, blame))[:200]
        told = before[spoken].tolist(), after[spoken].tolist()
        passed += decide(*told, seed=trial, draws=400, accepted=int(before[spoken].sum())).passed
    assert least <= passed / 200 <= most


def test_it_repeats_from_its_seed() -> None:
    """The same scores and seed give the same interval, another seed nearly the same."""
    before, after = accuracies(150, 0.5, 0.6)
    assert paired_bootstrap(before, after, seed=1) == paired_bootstrap(before, after, seed=1)
    assert paired_bootstrap(before, after, seed=2).low == pytest.approx(
        paired_bootstrap(before, after, seed=1).low, abs=0.01
    )


@pytest.mark.parametrize("n", [30, 200])
def test_a_challenger_that_is_no_better_rarely_passes(n: int) -> None:
    """Under the null (independent answers, equal accuracy) at most about 5% pass: 600 trials, three standard errors."""
    rng = np.random.default_rng(5)
    trials = 600
    passed = sum(
        decide(rng.random(n) < 0.5, rng.random(n) < 0.5, seed=trial, draws=400, min_items=n).passed
        for trial in range(trials)
    )
    assert passed / trials < 0.05 + 3 * (0.05 * 0.95 / trials) ** 0.5


def test_the_interval_covers_the_truth() -> None:
    """About 95% of the intervals hold the true gain."""
    rng = np.random.default_rng(6)
    held = 0
    for trial in range(400):
        interval = paired_bootstrap(rng.normal(0.5, 0.2, 100), rng.normal(0.6, 0.2, 100), seed=trial, draws=400)
        held += interval.low <= 0.1 <= interval.high
    assert 0.91 < held / 400 < 0.98


def test_power_agrees_with_simulation() -> None:
    """The normal approximation tells how often a true gain passes."""
    rng = np.random.default_rng(7)
    passed = sum(
        paired_bootstrap(np.zeros(80), rng.normal(0.05, 0.2, 80), seed=trial, draws=300).low > 0 for trial in range(400)
    )
    assert passed / 400 == pytest.approx(power(0.05, 0.2, 80), abs=0.08)


def test_scores_that_do_not_pair_are_refused() -> None:
    """Lists of different lengths, empty ones, NaN and a senseless level are the caller's mistake."""
    with pytest.raises(ValueError, match="as many"):
        paired_bootstrap([0.1], [0.1, 0.2], seed=1)
    with pytest.raises(ValueError, match="as many"):
        paired_bootstrap([], [], seed=1)
    with pytest.raises(ValueError, match="finite"):
        paired_bootstrap([float("nan")], [0.1], seed=1)
    with pytest.raises(ValueError, match="level"):
        paired_bootstrap([0.1], [0.1], seed=1, level=95)
    with pytest.raises(ValueError, match="spread"):
        power(0.1, 0.0, 10)


def test_a_tolerance_passes_what_is_not_shown_to_be_better() -> None:
    """800 items of which 20 get better and 16 worse: no gain is shown, and no loss of 3 points either."""
    before = [1.0] * 16 + [0.0] * 20 + [1.0] * 400 + [0.0] * 364
    after = [0.0] * 16 + [1.0] * 20 + [1.0] * 400 + [0.0] * 364
    assert not decide(before, after, seed=1).passed
    decision = decide(before, after, seed=1, gate=GatePolicy(tolerance=0.03))
    assert decision.passed
    assert decision.tolerance == 0.03
    assert decision.p <= decision.alpha
    assert "worse by no more than the 3 points allowed" in decision.reason


def test_a_tolerance_is_no_licence() -> None:
    """What is shown to be worse stays out although it is within the tolerance; so does what may be worse than that, and what
    differs on no item, for which there is nothing to try."""
    gate = GatePolicy(tolerance=0.1)
    worse = decide(*accuracies(2000, 0.5, 0.48), seed=1, gate=gate)
    assert (worse.passed, worse.reason.endswith("it is worse")) == (False, True)
    unknown = decide([1.0] * 6 + [0.0] * 34, [0.0] * 6 + [1.0] * 5 + [0.0] * 29, seed=1, gate=gate)
    assert not unknown.passed
    assert "does not exclude -10.0, so it may be worse by more than allowed" in unknown.reason
    same = decide(*accuracies(2000, 0.5, 0.5), seed=1, gate=gate)
    assert (same.passed, same.reason.endswith("nothing to try")) == (False, True)


def test_a_tolerance_keeps_its_own_promise() -> None:
    """Of 400 challengers that are worse by the tolerance at most a share 1 - level passes (fewer: the test is cautious)."""
    rng = np.random.default_rng(11)
    gate, passed = GatePolicy(level=0.9, correction="none", tolerance=0.05), 0
    for seed in range(400):
        before = (rng.random(200) < 0.5).astype(float)
        lost = (rng.random(200) < 0.1) * before
        passed += decide(before, before - lost, seed=seed, draws=500, gate=gate).passed
    assert passed / 400 <= 0.1


def test_a_gain_passes_with_a_tolerance_wherever_it_passes_without() -> None:
    """91 items, all a little better: too few for the cautious test of no loss, enough for the test of a gain."""
    before, after = [0.5] * 91, [0.52] * 91
    for gate in (GatePolicy(), GatePolicy(tolerance=0.01)):
        assert decide(before, after, seed=1, gate=gate).passed
