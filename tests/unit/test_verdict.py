"""The verdict on a trial: what it says of which figures, and how often it is wrong over whole trials by the default policy."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from registry.canary_policy import CanaryPolicy
from registry.errors import BadInput
from registry.policy import Policy
from swarm_worker.verdict import judge

POLICY = CanaryPolicy()


def counted(n: int, mean: float, *, errors: float = 0.0, wait: float | None = None) -> dict[str, float]:
    """The sums of a version that was asked and rated ``n`` times. ``wait``: the geometric mean, spread by a third."""
    sums = {"ratings": n, "rating_nano": round(n * mean) * 1e9, "rating_square_nano": round(n * mean) * 1e9}
    sums |= {"requests": n, "errors": n * errors}
    if wait is not None:
        log = np.log(wait)
        sums |= {"waits": n, "wait_logs": n * log, "wait_log_squares": n * (log**2 + 0.3**2)}
    return {name: float(amount) for name, amount in sums.items()}


def played(policy: CanaryPolicy, champion: float, ours: float, rng: np.random.Generator) -> tuple[str, int]:
    """A whole trial, looked at every 40 answers, each rated up or down: how it ended, and how many of them were the version's."""
    step, strata, own = 0, [[np.zeros(2), np.zeros(2)]], 0
    while True:
        here = strata[-1]
        n = int(rng.binomial(40, policy.steps[step]))
        own += n
        here[0] += n, rng.binomial(n, ours)
        here[1] += 40 - n, rng.binomial(40 - n, champion)
        sums = [tuple({"ratings": n, "rating_nano": total * 1e9} for n, total in stratum) for stratum in strata]
        verdict = judge(policy, sums, first_share=step == 0)  # type: ignore[arg-type]
        last = step == len(policy.steps) - 1
        if verdict.kind in ("worse", "undecided") or (verdict.kind == "better" and last):
            return verdict.kind, own
        if not last and here[0][0] >= (policy.min_ratings if step else policy.early_ratings):
            step += 1
            strata.append([np.zeros(2), np.zeros(2)])


@pytest.mark.parametrize("champion", [0.5, 0.7])
def test_whole_trials_end_as_they_should(champion: float) -> None:
    """By the default policy and thumbs: ten points worse is off within 200 of its own answers (but for one in a hundred at most),
    ten points better is promoted, and of equal versions few are promoted or blamed."""
    rng = np.random.default_rng(5)
    bad = [played(POLICY, champion, champion - 0.1, rng) for _ in range(150)]
    assert not [kind for kind, _ in bad if kind == "better"]
    assert sum(own > 200 for _, own in bad) <= 1
    assert sum(kind == "worse" for kind, _ in bad) > 0.3 * len(bad)
    good = Counter(played(POLICY, champion, champion + 0.1, rng)[0] for _ in range(80))
    assert good["better"] >= 0.95 * 80
    same = Counter(played(POLICY, champion, champion, rng)[0] for _ in range(150))
    assert same["better"] + same["worse"] <= 0.05 * 150


def test_it_waits_until_it_knows_enough() -> None:
    """Without ratings, or with too few on either side, it goes on."""
    assert judge(POLICY, []).kind == "go_on"
    assert judge(POLICY, [({}, {})]).kind == "go_on"
    assert judge(POLICY, [(counted(29, 0.0), counted(1000, 0.9))]).kind == "go_on"
    assert judge(POLICY, [(counted(1000, 0.9), counted(10, 0.0))]).kind == "go_on"


def test_a_version_that_is_always_wrong_is_off_at_once() -> None:
    """What breaks the format is rated 0 by all: blamed as soon as there are ratings enough to say anything."""
    verdict = judge(POLICY, [(counted(30, 0.0), counted(570, 0.6))], first_share=True)
    assert verdict.kind == "worse"
    assert "rated lower" in verdict.reason
    assert verdict.figures["ratings"]["high"] < 0.05


def test_a_decision_says_how_probable_it_is_that_the_version_is_better() -> None:
    """By the normal approximation: one half where nothing differs, the same for both sides, less where raters were loud."""

    def p_better(ours: float, theirs: float, effect: float = 1.0) -> float:
        judged = judge(POLICY, [(counted(400, ours), counted(400, theirs))], effect=effect)
        return float(judged.figures["ratings"]["p_better"])

    assert p_better(0.6, 0.6) == pytest.approx(0.5)
    # A difference of 5 points, of which one deviation is 3.46 (sqrt(0.6 * 0.4 / 400 * 2)): 1.45 deviations.
    assert p_better(0.625, 0.575) == pytest.approx(0.926, abs=0.003)
    assert p_better(0.575, 0.625) == pytest.approx(1 - p_better(0.625, 0.575))
    assert 0.5 < p_better(0.625, 0.575, effect=4.0) < 0.8


def test_errors_and_waits_are_worse_whatever_the_ratings_say() -> None:
    """A version that fails or is slow beyond the policy goes, also where its ratings are better; within the policy it stays."""
    champion = counted(1000, 0.5, errors=0.01, wait=0.2)
    failing = judge(POLICY, [(counted(60, 0.9, errors=0.3, wait=0.2), champion)])
    slow = judge(POLICY, [(counted(60, 0.9, errors=0.01, wait=0.7), champion)])
    assert (failing.kind, slow.kind) == ("worse", "worse")
    assert "fails more often" in failing.reason
    assert "3.50 times as long" in slow.reason
    assert judge(POLICY, [(counted(60, 0.5, errors=0.02, wait=0.25), champion)]).kind == "go_on"
    patient = POLICY.model_copy(update={"max_slowdown": 10.0, "max_error_rate": 1.0})
    for strata in ([(counted(60, 0.5, errors=0.3, wait=0.7), champion)],):
        assert judge(patient, strata).kind == "go_on"


def test_no_worse_is_enough_where_the_policy_says_so() -> None:
    """Equal ratings, many of them: left undecided by default, promoted where no worse than the tolerance is enough."""
    equal = [(counted(1500, 0.6), counted(1500, 0.6))]
    assert judge(POLICY, equal).kind == "undecided"
    assert judge(CanaryPolicy(promote_on="no_worse", tolerance=0.08), equal).kind == "better"


def test_what_is_within_the_tolerance_is_not_blamed() -> None:
    """Five points less, beyond doubt: blamed by default, undecided under a tolerance of ten."""
    less = [(counted(4000, 0.55), counted(4000, 0.60))]
    assert judge(POLICY, less).kind == "worse"
    assert judge(CanaryPolicy(tolerance=0.1), less).kind == "undecided"


def test_a_lead_that_is_lost_ends_the_trial() -> None:
    """After its early ratings a version must lead, at the first share by the policy's lead; before, it may be behind."""
    slightly = [(counted(200, 0.605), counted(3800, 0.6))]
    assert judge(POLICY, slightly, first_share=True).kind == "undecided"
    assert judge(POLICY, slightly).kind == "go_on"
    assert judge(POLICY, [(counted(170, 0.58), counted(3000, 0.6))], first_share=True).kind == "go_on"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"steps": [0.5, 0.25]}, "rise"),
        ({"steps": [0.5, 1.0]}, "less than 1"),
        ({"steps": []}, "at least 1"),
        ({"promote_on": "no_worse"}, "tolerance"),
        ({"max_ratings": 200}, "twice"),
        ({"false_moves": 0}, "greater than 0"),
        ({"stepz": [0.5]}, "no such field"),
    ],
)
def test_a_policy_that_could_not_work_is_refused(wrong: dict[str, Any], told: str) -> None:
    """With the field and what would do, before it is kept."""
    with pytest.raises(BadInput, match=told):
        Policy.read({"canary": wrong})
    assert Policy.read({"canary": {"automatic": True, "dwell": "2h"}}).canary.dwell == 7200
