"""What the users of a trial say: promote, go on, keep back, or leave it undecided, with the figures. Pure.

Read in this order; the first that holds is the verdict:

1. *worse*: the version fails or is slow beyond the policy, or is rated lower (by more than ``tolerance``). It is kept back.
2. *better* (or, where the policy says so, no worse), on ratings given at the same time. Also at an early share: the caller
   promotes at the last.
3. *undecided*: it had its ``early_ratings`` and does not lead; or the horizon is reached. The champion stays, nobody is to blame.
4. *go_on*.

Both directions of the rating test hold under any number of looks (``swarm_worker/sequential.py``), each with half of
``false_moves``; of blame, half is spent until the early look, where it saves answers, and half until the horizon. Giving up
spends nothing: it can only keep a promotion from happening. Errors and waits have no horizon; an equal version is well inside
their margins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from registry.canary_policy import CanaryPolicy
from swarm_worker.sequential import Walk, horizon_bound, mixture_bound, walk
from swarm_worker.trial import Counted, errors, ratings, waits

Kind = Literal["worse", "better", "undecided", "go_on"]
OVERSHOOT = 1.25  # a look may come some answers after the early one was due


@dataclass(frozen=True, slots=True)
class Verdict:
    """``reason`` in words; ``figures`` for the history: means, counts and the interval that holds at every look at once."""

    kind: Kind
    reason: str
    figures: dict[str, Any] = field(default_factory=dict)
    rated: Walk | None = None


def judge(
    policy: CanaryPolicy,
    strata: Sequence[tuple[Counted, Counted]],
    *,
    first_share: bool = False,
    effect: float = 1.0,
) -> Verdict:
    """The verdict on what was counted at each share. ``first_share``: the share was not raised yet. ``effect``: how much less
    the ratings say because some raters gave many (``swarm_worker/raters.py``)."""
    rated = walk(ratings(strata), effect=effect)
    figures: dict[str, Any] = {"ratings": _told(rated, policy)}
    for found in (_fails(policy, strata, figures), _slow(policy, strata, figures)):
        if found:
            return Verdict("worse", found, figures, rated)
    if rated is None or min(rated.n, rated.n_champion) < policy.min_ratings:
        return Verdict("go_on", "there are too few ratings to say anything", figures, rated)
    blamed = walk(ratings(strata), margin=-policy.tolerance, effect=effect) or rated
    return _by_ratings(policy, rated, blamed, figures, first_share=first_share)


def _by_ratings(
    policy: CanaryPolicy, rated: Walk, blamed: Walk, figures: dict[str, Any], *, first_share: bool
) -> Verdict:
    """``blamed``: the same walk, measured from the margin that blame, and a promotion of what is no worse, must be beyond."""
    told = _sentence(rated, figures["ratings"])
    no_worse = policy.promote_on == "no_worse"
    praised = blamed if no_worse else rated
    if -blamed.place >= _blame_bound(policy, blamed.information):
        return Verdict("worse", f"it is rated lower: {told}", figures, rated)
    if praised.place >= _praise_bound(policy, praised.information):
        word = "no worse" if no_worse else "better"
        return Verdict("better", f"it is rated {word}: {told}", figures, rated)
    lead = rated.difference + (policy.tolerance if no_worse else 0.0)
    if rated.n >= policy.early_ratings and lead < (policy.early_lead if first_share else 0.0):
        return Verdict("undecided", f"it does not lead after {rated.n:.0f} ratings: {told}", figures, rated)
    if rated.information >= policy.max_ratings / 2:
        return Verdict(
            "undecided", f"it is not shown to be better by as many ratings as may be: {told}", figures, rated
        )
    return Verdict("go_on", told, figures, rated)


def early_information(policy: CanaryPolicy) -> float:
    """What ``early_ratings`` at the first share are worth."""
    return policy.early_ratings * (1 - policy.steps[0])


def _praise_bound(policy: CanaryPolicy, information: float) -> float:
    return horizon_bound(policy.false_moves / 2, max(policy.max_ratings / 2, information))


def _blame_bound(policy: CanaryPolicy, information: float) -> float:
    level, early = policy.false_moves / 4, early_information(policy)
    if information <= OVERSHOOT * early:
        return horizon_bound(level, max(early, information))
    return horizon_bound(level, max(policy.max_ratings / 2, information))


def _fails(policy: CanaryPolicy, strata: Sequence[tuple[Counted, Counted]], figures: dict[str, Any]) -> str:
    failed = walk(errors(strata), margin=policy.max_error_rate)
    if failed is None or min(failed.n, failed.n_champion) < policy.min_ratings:
        return ""
    figures["errors"] = _means(failed)
    if failed.place < mixture_bound(policy.false_moves / 2, failed.information, early_information(policy)):
        return ""
    return (
        f"it fails more often than the policy allows: {failed.mean:.1%} of {failed.n:.0f} requests, the champion "
        f"{failed.mean_champion:.1%} of {failed.n_champion:.0f}; allowed are {policy.max_error_rate:.1%} more"
    )


def _slow(policy: CanaryPolicy, strata: Sequence[tuple[Counted, Counted]], figures: dict[str, Any]) -> str:
    slow = walk(waits(strata), margin=math.log(policy.max_slowdown), unit=False)
    if slow is None or min(slow.n, slow.n_champion) < policy.min_ratings:
        return ""
    ours, theirs = math.exp(slow.mean), math.exp(slow.mean_champion)
    times = math.exp(slow.difference)
    figures["wait"] = {"seconds": ours, "seconds_champion": theirs, "times": times, "n": slow.n}
    if slow.place < mixture_bound(policy.false_moves / 2, slow.information, early_information(policy)):
        return ""
    return (
        f"its users wait {times:.2f} times as long: {ours:.3f} s, the champion's {theirs:.3f} s (geometric means); allowed are "
        f"{policy.max_slowdown:g} times"
    )


def _told(rated: Walk | None, policy: CanaryPolicy) -> dict[str, Any]:
    """Means and counts, and the interval that holds at all looks at once with the chance ``1 - false_moves``: its ends are
    what is tested, above 0 the one is *better*, below 0 (and the tolerance) the other is *worse*. ``p_better`` is of this look
    alone, and decides nothing."""
    if rated is None:
        return {}
    one = rated.deviation / rated.information  # what a unit of the walk is worth now, in rating
    low = rated.difference - one * _praise_bound(policy, rated.information)
    high = rated.difference + one * _blame_bound(policy, rated.information)
    told = {"low": max(-1.0, low), "high": min(1.0, high), "z": rated.z, "p_better": rated.p_above}
    return _means(rated) | told


def _means(of: Walk) -> dict[str, Any]:
    known = asdict(of)
    return {name: known[name] for name in ("mean", "n", "mean_champion", "n_champion", "difference")}


def _sentence(rated: Walk, told: dict[str, Any]) -> str:
    points = ", ".join(f"{100 * told[end]:+.1f}" for end in ("low", "high"))
    return (
        f"{rated.mean:.3f} of {rated.n:.0f} ratings, the champion {rated.mean_champion:.3f} of {rated.n_champion:.0f}; "
        f"{100 * rated.difference:+.1f} points [{points}]"
    )
