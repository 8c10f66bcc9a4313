"""Guards: what a finalist may not lose, however much better it is at what it was searched for.

Champion and finalist answer the same suite. The finalist is kept out unless it is shown to have lost less than the tolerance:
the lower end of the interval of the paired difference lies above ``-tolerance`` (a non-inferiority test). A bound on the mean
alone would let one in two pass whose true loss is the tolerance itself. What is undecided is kept out; a policy whose suite has
too few items for its tolerance is refused before any run. Every guard must pass, so several need no correction (an
intersection-union test: Berger (1982), Technometrics 24:295). Many looks are not corrected for: of the finalists that lose more
than the tolerance about one in twenty passes, however many come, and fewer the more they lose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from registry.guard_policy import Guard
from registry.non_inferiority import chance_above, interval
from registry.suites import PHRASES, Suite
from swarm_worker.forms import has_form
from swarm_worker.refusals import is_refusal
from swarm_worker.scoring.engine import Asked, Prompt, Scored, ScoringEngine, Told
from swarm_worker.utilities import Item, make, measure

TOLD = 20
"""Most items that got worse that a decision lists, those that lost most first."""


@dataclass(frozen=True, slots=True)
class GuardDecision:
    """What one guard says, with the numbers that it says it by. Scores and differences are shares.

    ``low``, ``high``: each end of the interval by itself holds with confidence ``level``. ``p_better``, ``p_within``: the chance
    that the finalist is better, that it is within the tolerance (the level whose interval ends there). ``worse``:
    how many items got worse; ``items``: which, at most ``TOLD``, with their scores before and after.
    """

    suite: str
    digest: str
    passed: bool
    reason: str
    n: int
    before: float
    after: float
    difference: float
    low: float
    high: float
    level: float
    tolerance: float
    p_better: float
    p_within: float
    worse: int
    items: tuple[dict[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"items": list(self.items)}


def score_guards(
    engine: ScoringEngine,
    champion: Scored,
    finalist: Scored,
    guards: Sequence[Guard],
    read: Callable[[str], Suite],
) -> dict[str, Any]:
    """By its digest what ``score_suite`` says of each guard's suite, which ``read`` finds. ``ValueError`` names the guard that
    cannot be scored: it is not shown to hold, so the finalist is not delivered."""
    reports = {}
    for guard in guards:
        try:
            reports[guard.digest] = score_suite(engine, champion, finalist, read(guard.digest))
        except ValueError as error:
            raise ValueError(f"the guard '{guard.suite}' cannot be scored: {error}") from error
    return reports


def score_suite(engine: ScoringEngine, champion: Scored, finalist: Scored, suite: Suite) -> dict[str, Any]:
    """The score of each item, in [0, 1], of the champion (``before``) and the finalist (``after``), and the items' names.

    ``ValueError`` for a suite that cannot be scored here: a prompt beyond the base's context, say.
    """
    if suite.kind == "task":
        before, after = _task(engine, (champion, finalist), suite)
    else:
        prompts = tuple(_question(item.prompt, item.messages) for item in suite.items)
        told = engine.ask([champion, finalist], Asked(answers=prompts, max_tokens=suite.max_tokens))
        before, after = (_judged(suite, one) for one in told)
    return {"before": before, "after": after, "names": suite.names}


def decide_guards(guards: Sequence[Guard], reports: Mapping[str, Any]) -> list[GuardDecision]:
    """A decision of each guard; ``reports``: by the suite's digest, as from ``score_suite``. ``ValueError`` where one is missing:
    what was not looked at is not shown."""
    for guard in guards:
        if guard.digest not in reports:
            raise ValueError(f"The guard '{guard.suite}' was not scored: is the scoring worker older than the policy?")
    return [_decide(guard, **reports[guard.digest]) for guard in guards]


def failed(decisions: Sequence[GuardDecision]) -> str | None:
    """Every guard that keeps the finalist out, in words; None where none does."""
    return " ".join(f"Guard {decision.reason}." for decision in decisions if not decision.passed) or None


def _decide(guard: Guard, before: Sequence[float], after: Sequence[float], names: Sequence[str]) -> GuardDecision:
    change = [b - a for a, b in zip(before, after, strict=True)]
    n, total, squares = len(change), sum(change), sum(one * one for one in change)
    low, high = interval(n, total, squares, guard.level)
    lost = sorted((one, place) for place, one in enumerate(change) if one < 0)
    passed = low > -guard.tolerance
    told = (
        f"'{guard.suite}': {sum(after) / n:.1%} against {sum(before) / n:.1%} on {n} items, "
        f"{_points(total / n)} points; it may have fallen by up to {100 * max(0.0, -low):.1f}, "
        f"{100 * guard.tolerance:.3g} {'are' if guard.tolerance != 0.01 else 'is'} allowed"
    )
    if lost:
        shown = ", ".join(str(names[place]) for _, place in lost[:5])
        told += f"; {len(lost)} got worse: {shown}{', ...' if len(lost) > 5 else ''}"
    return GuardDecision(
        suite=guard.suite,
        digest=guard.digest,
        passed=passed,
        reason=told,
        n=n,
        before=sum(before) / n,
        after=sum(after) / n,
        difference=total / n,
        low=low,
        high=high,
        level=guard.level,
        tolerance=guard.tolerance,
        p_better=chance_above(0.0, n, total, squares),
        p_within=chance_above(-guard.tolerance, n, total, squares),
        worse=len(lost),
        items=tuple({"item": names[place], "before": before[place], "after": after[place]} for _, place in lost[:TOLD]),
    )


def _task(engine: ScoringEngine, scored: Sequence[Scored], suite: Suite) -> list[list[float]]:
    items = [
        Item(
            messages=None if item.messages is None else list(item.messages),
            prompt=item.prompt,
            good=item.good,
            choices=item.choices,
        )
        for item in suite.items
    ]
    # A choice is compared by likelihood: nothing is generated that could be too long.
    limit = {} if suite.utility == "multiple_choice" else {"max_tokens": suite.max_tokens}
    found = measure(make(str(suite.utility), **limit), engine, list(scored), items)
    return [[float(value or 0.0) for value in scores.values] for scores in found]


def _judged(suite: Suite, told: Told) -> list[float]:
    """1 for an answer that is as the suite wants it, 0 for one that is not."""
    if suite.form is not None:
        return [float(has_form(answer, suite.form)) for answer in told.answers]
    phrases = suite.phrases or PHRASES
    return [
        float(is_refusal(answer, phrases) == item.refuse)
        for item, answer in zip(suite.items, told.answers, strict=True)
    ]


def _question(prompt: str | None, messages: Sequence[dict[str, Any]] | None) -> Prompt:
    return list(messages) if messages is not None else str(prompt)


def _points(share: float) -> str:
    return f"{round(100 * share, 1) + 0:+.1f}"
