"""What may not get worse: suites, how they are scored, what a guard decides."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import BadInput
from registry.guard_policy import Guard, GuardPolicy, resolved
from registry.non_inferiority import chance_above, interval, items_for, least_tolerance
from registry.suites import PHRASES, Form, Suite
from swarm_worker.forms import has_form
from swarm_worker.guards import TOLD, decide_guards, failed, score_guards, score_suite
from swarm_worker.refusals import is_refusal
from swarm_worker.scoring.engine import BASE, AdapterFolder, Asked, answers_of
from tests.unit.tiny_setting import chat, load_engine, make_pack
from tests.unit.toy_engine import ToyEngine

DIGEST = "sha256:" + "a" * 64


def guard(items: int, tolerance: float, name: str = "sums") -> Guard:
    return Guard(suite=name, digest=DIGEST, items=items, tolerance=tolerance, level=0.95)


def report(before: list[float], after: list[float]) -> dict[str, object]:
    return {DIGEST: {"before": before, "after": after, "names": [f"q{n}" for n in range(len(before))]}}


def test_a_guard_that_holds_says_how_sure_it_is() -> None:
    """Two of 300 items lost and two won: it may have fallen by about a point, 3 are allowed."""
    before = [1.0] * 290 + [0.0] * 10
    after = [0.0] * 2 + [1.0] * 288 + [1.0] * 2 + [0.0] * 8
    (held,) = decide_guards([guard(300, 0.03)], report(before, after))
    assert held.passed
    assert (held.n, held.worse, held.difference) == (300, 2, pytest.approx(0.0))
    assert -0.03 < held.low < 0 < held.high
    assert held.p_better == pytest.approx(0.5)
    assert held.p_within > 0.95
    assert failed([held]) is None


def test_a_guard_that_fails_says_which_by_how_much_and_on_which_items() -> None:
    """In words, and as data: each item that got worse with its scores, those that lost most first, no endless list."""
    after = [0.0] * 30 + [1.0] * 170
    after[7] = 0.5
    (lost,) = decide_guards([guard(200, 0.02)], report([1.0] * 200, after))
    assert not lost.passed
    told = failed([lost])
    assert told is not None
    for part in (
        "'sums'",
        "85.2% against 100.0% on 200 items",
        "-14.8 points",
        "2 are allowed",
        "30 got worse: q0, q1,",
    ):
        assert part in told, told
    assert (lost.worse, len(lost.items)) == (30, TOLD)
    assert lost.items[0] == {"item": "q0", "before": 1.0, "after": 0.0}
    assert "q7" not in [item["item"] for item in lost.items]


def test_what_was_not_scored_is_not_shown() -> None:
    """A worker that knows no guards cannot pass one."""
    with pytest.raises(ValueError, match="was not scored"):
        decide_guards([guard(10, 0.5)], {})


def test_a_finalist_that_loses_the_tolerance_rarely_passes_and_one_that_loses_nothing_mostly_does() -> None:
    """On 300 items, a tenth of which change, tolerance 5 points: about 5% against more than 80%, over 2,000 finalists each."""
    rng = np.random.default_rng(4)

    def share(loss: float) -> float:
        passed = 0
        for _ in range(2000):
            change = rng.choice([-1.0, 1.0, 0.0], size=300, p=[0.05 + loss / 2, 0.05 - loss / 2, 0.9])
            passed += interval(300, float(change.sum()), float((change**2).sum()), 0.95)[0] > -0.05
        return passed / 2000

    assert share(0.05) < 0.05 + 3 * (0.05 * 0.95 / 2000) ** 0.5
    assert share(0.0) > 0.8


@pytest.mark.parametrize(("items", "spare"), [(50, 1.02), (100, 1.02), (100, 3.0), (300, 1.1)])
def test_a_finalist_that_loses_the_tolerance_and_wins_nothing_rarely_passes(items: int, spare: float) -> None:
    """The champion had all but everything right, so nothing can be won: about 5%, by exact sums, also at the least tolerance
    and where next to nothing was lost on the suite."""
    tolerance = spare * least_tolerance(items, 0.95)
    lose = [math.comb(items, n) * tolerance**n * (1 - tolerance) ** (items - n) for n in range(items + 1)]
    passes = [interval(items, -n, n, 0.95)[0] > -tolerance for n in range(items + 1)]
    assert passes[0]
    assert sum(chance for chance, passed in zip(lose, passes, strict=True) if passed) < 0.06


@settings(deadline=None)
@given(
    st.integers(2, 2000), st.floats(0, 1), st.floats(0, 1), st.floats(0.001, 0.999), st.sampled_from([0.8, 0.95, 0.99])
)
def test_how_sure_a_guard_is_and_what_it_decides_agree(
    items: int, lost: float, won: float, tolerance: float, level: float
) -> None:
    """It passes where the chance that it is within the tolerance is above the level, and only there."""
    losses = round(lost * items)
    wins = round(won * (items - losses))
    low, _ = interval(items, wins - losses, wins + losses, level)
    sure = chance_above(-tolerance, items, wins - losses, wins + losses)
    assert abs(sure - level) < 1e-6 or (low > -tolerance) == (sure > level)


def test_how_many_items_a_tiny_tolerance_takes_is_told_at_once() -> None:
    """It is worked out, not counted up to."""
    assert items_for(1e-12, 0.95) > 10**12


@settings(deadline=None)
@given(st.integers(1, 3000), st.sampled_from([0.9, 0.95, 0.99]))
def test_a_tolerance_that_no_outcome_could_show_is_refused_with_what_would_do(items: int, level: float) -> None:
    """Below the least tolerance even a suite on which nothing changes fails; at it and above, that passes."""
    least = least_tolerance(items, level)
    asked = GuardPolicy(suite="sums", tolerance=min(0.99, least * 1.01), level=level)
    kept = resolved(asked, DIGEST, items) if least * 1.01 < 0.99 else None
    assert kept is None or decide_guards([kept], report([1.0] * items, [1.0] * items))[0].passed
    with pytest.raises(BadInput, match="Give at least"):
        resolved(GuardPolicy(suite="sums", tolerance=least * 0.99, level=level), DIGEST, items)
    assert items_for(least * 1.0001, level) <= items


@pytest.mark.parametrize(
    ("form", "answer", "has"),
    [
        ({"json": "object"}, ' {"a": 1} ', True),
        ({"json": "object"}, "[1]", False),
        ({"json": "any"}, "[" * 100_000, False),
        ({"matches": r"[A-Z]{2}\d+"}, "AB12\n", True),
        ({"matches": r"[A-Z]{2}\d+"}, "see AB12", False),
        ({"max_characters": 3}, "abcd", False),
        ({"max_characters": 4, "matches": "a.*"}, "abcd", True),
    ],
)
def test_a_form_is_all_that_is_said_of_it(form: dict[str, object], answer: str, has: bool) -> None:
    """Whole answers with bare ends: a match somewhere in one is no match."""
    assert has_form(answer, Form.model_validate(form)) is has


def test_an_expression_that_backtracks_for_ever_does_not_hold_a_worker_up() -> None:
    """It is given up, and does not match."""
    assert not has_form("a" * 50 + "b", Form(matches="(a|aa|a?)+c"))


@pytest.mark.parametrize(
    ("answer", "refuses"),
    [
        ("I\u2019m sorry, but I can't help with that.", True),
        ("As an AI, I must not.", True),
        ("Sure! Mix flour and water.", False),
        ("", False),
        ("Here is the story. " + "x" * 150 + " 'I cannot', she said.", False),
    ],
)
def test_a_refusal_is_what_begins_like_one(answer: str, refuses: bool) -> None:
    """Whatever its case and apostrophes; a phrase that comes late in an answer is told of, not done."""
    assert is_refusal(answer, PHRASES) is refuses


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"kind": "task"}, "needs 'utility'"),
        ({"kind": "task", "utility": "exact_match"}, "item 1 needs 'good'"),
        ({"kind": "task", "utility": "multiple_choice", "items": [{"prompt": "x", "good": "A"}]}, "needs 'choices'"),
        ({"kind": "format"}, "needs 'form'"),
        ({"kind": "format", "form": {}}, "say what answers must be"),
        ({"kind": "format", "form": {"matches": "("}}, "not a regular expression"),
        ({"kind": "refusal", "utility": "numeric"}, "belongs to a suite of kind 'task'"),
        ({"kind": "refusal"}, "needs 'refuse'"),
        ({"kind": "refusal", "items": [{"refuse": True}]}, "either 'messages' or 'prompt'"),
        ({"kind": "refusal", "items": [{"prompt": "x", "refuse": True, "id": "a"}] * 2}, "same id"),
        ({"kind": "refusal", "items": []}, "items"),
        ({"kind": "task", "utilty": "numeric"}, "utilty"),
    ],
)
def test_what_is_wrong_with_a_suite_is_named(changes: dict[str, object], told: str) -> None:
    """Field or item, and what it needs."""
    with pytest.raises(BadInput, match=told):
        Suite.read({"items": [{"prompt": "1 + 1"}]} | changes)


def test_a_suite_reads_as_it_was_written() -> None:
    """Through JSON and back, whatever its kind."""
    form = Suite.read({"kind": "format", "form": {"json": "object"}, "items": [{"prompt": "x"}]})
    assert Suite.read(form.model_dump(mode="json", by_alias=True)) == form
    assert form.names == ["1"]


def test_each_kind_is_scored_on_champion_and_finalist(tmp_path: Path) -> None:
    """On a real tiny model: an adapter against itself changes nothing, and every score is the one that its answer gives."""
    base, folders = make_pack(tmp_path)
    engine = load_engine(base)
    champion, finalist = AdapterFolder(folders[0]), BASE
    prompts = [f"go {word}" for word in ("one", "two", "three")]
    answers = [answers_of(engine, who, [chat(prompt) for prompt in prompts], 8) for who in (champion, finalist)]
    questions = [{"messages": chat(prompt)} for prompt in prompts]
    longest = min(len(answer.strip()) for answer in answers[0])
    suites = {
        "task": Suite.read(
            {
                "kind": "task",
                "utility": "exact_match",
                "max_tokens": 8,
                "items": [q | {"good": a or "x"} for q, a in zip(questions, answers[0], strict=True)],
            }
        ),
        "format": Suite.read(
            {
                "kind": "format",
                "form": {"max_characters": max(1, longest)},
                "max_tokens": 8,
                "items": questions,
            }
        ),
        "refusal": Suite.read(
            {
                "kind": "refusal",
                "phrases": [answers[0][0].strip()[:3] or "x"],
                "max_tokens": 8,
                "items": [q | {"refuse": True} for q in questions],
            }
        ),
        "choice": Suite.read(
            {
                "kind": "task",
                "utility": "multiple_choice",
                "items": [q | {"good": "A", "choices": {"A": "yes", "B": "no"}} for q in questions],
            }
        ),
    }
    for name, suite in suites.items():
        same = score_suite(engine, champion, champion, suite)
        assert same["before"] == same["after"], name
        other = score_suite(engine, champion, finalist, suite)
        assert other["before"] == same["before"], name
        assert all(0 <= score <= 1 for score in other["after"])
    told = score_suite(engine, champion, finalist, suites["format"])
    assert [told["before"], told["after"]] == [
        [float(len(answer.strip()) <= max(1, longest)) for answer in side] for side in answers
    ]
    assert score_suite(engine, champion, champion, suites["task"])["before"] == [
        float(bool(a.strip())) for a in answers[0]
    ]


def test_a_guard_that_cannot_be_scored_is_named(tmp_path: Path) -> None:
    """A prompt beyond the base's context, say: nothing is delivered on a guess."""
    base, folders = make_pack(tmp_path)
    engine, champion = load_engine(base), AdapterFolder(folders[0])
    long = Suite.read({"kind": "refusal", "items": [{"prompt": "word " * 5000, "refuse": True}]})
    with pytest.raises(ValueError, match=r"the guard 'sums' cannot be scored: .*context"):
        score_guards(engine, champion, champion, [guard(1, 0.9)], lambda digest: long)


def test_a_refusal_suite_counts_both_ways() -> None:
    """Refusing what must be answered is as wrong as answering what must be refused."""

    class Refuses(ToyEngine):
        def ask(self, scored: object, asked: Asked) -> list[object]:  # type: ignore[override]
            told = super().ask([BASE, BASE], asked)
            answers = tuple("I cannot do that." for _ in asked.answers)
            return [told[0], type(told[1])(answers=answers)]

    items = [{"prompt": "bad", "refuse": True}, {"prompt": "fine", "refuse": False}]
    scored = score_suite(Refuses(), BASE, BASE, Suite.read({"kind": "refusal", "items": items}))  # type: ignore[arg-type]
    assert scored["before"] == [0.0, 1.0]
    assert scored["after"] == [1.0, 0.0]
