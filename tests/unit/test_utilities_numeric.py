"""numeric: one anchored expression of the answer, compared by math-verify."""

from __future__ import annotations

import threading

import pytest

from swarm_worker.scoring.engine import Told
from swarm_worker.utilities import Item, make, mean
from swarm_worker.utilities.numeric import is_equal, number_in


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("5", "5"),
        ("The answer is 5.", "5"),
        ("3 + 4 = 7", "7"),
        ("first 3, then 1,234.50 dollars", "1,234.50"),
        ("it costs $18.", "18"),
        ("-3", "-3"),
        ("from 5-3", "3"),
        ("about 50%", "50%"),
        ("1/2 of it", "1/2"),
        ("so \\frac{1}{2}", "\\frac{1}{2}"),
        ("in 3 steps\n#### 1,000\nthat took 7", "1,000"),
        ("#### 5 #### 6", "6"),
        ("12 and 13, so \\boxed{14} of 15", "14"),
        ("\\boxed{1} no, \\boxed{\\frac{3}{4}}", "\\frac{3}{4}"),
        ("#### 3 but \\boxed{4}", "4"),
        ("7\n\nQuestion: what is 3+3?\nAnswer: 6", "7"),
        ("", None),
        ("none", None),
        ("####", None),
        ("\\boxed{x}", None),
        ("\\boxed{9^{9^{9}}}", None),
        ("\\boxed{99999!}", None),
        ("9" * 101, None),
    ],
)
def test_the_number_that_counts(answer: str, number: str | None) -> None:
    """The last boxed one, else the one after ####, else the last; nothing that would take for ever to write out."""
    assert number_in(answer) == number


@pytest.mark.parametrize(
    ("right", "number", "equal"),
    [
        ("1000", "1,000", True),
        ("0.5", "\\frac{1}{2}", True),
        ("1/2", "0.5", True),
        ("1000", "1,001", False),
        ("0.5", "0.51", False),
        ("50", "50%", True),
        ("7", "07", True),
        ("150", "150.0", True),
        ("5", "-5", False),
        ("5", "55", False),
        ("12", "1", False),
        ("5", "5,6", False),
        ("5", "\\{5,6\\}", False),
        ("2", "1<x<3", False),
    ],
)
def test_equality_is_of_values(right: str, number: str, equal: bool) -> None:
    """As math-verify has it; several numbers at once are none of them."""
    assert is_equal(right, number) is equal


def test_it_works_beside_the_main_thread() -> None:
    """math-verify's alarm signal works in the main thread only; elsewhere the answer is the same."""
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.extend([is_equal("0.25", "1/4"), is_equal("0.25", "1/5")]))
    thread.start()
    thread.join()
    assert found == [True, False]


def _digits_of_every_pair() -> str:
    """A string that holds every two-digit number (a de Bruijn sequence): the reference code gives it .675 on GSM8K."""
    digits, seen = "0", set()
    while True:
        following = [d for d in "9876543210" if digits[-1] + d not in seen]
        if not following:
            return digits
        seen.add(digits[-1] + following[0])
        digits += following[0]


@pytest.mark.parametrize(
    "constant",
    ["", "5", _digits_of_every_pair(), " ".join(map(str, range(100))), "\\boxed{1,2,3,4,5,6,7,8,9}", "####" * 9, "x"],
)
def test_a_constant_does_not_beat_the_majority_class(constant: str) -> None:
    """No string of digits scores above the most frequent right answer (defect E1)."""
    items = [Item(prompt=str(n), good=good) for n, good in enumerate(["5"] * 4 + ["10", "2", "6", "1", "12", "34"])]
    verdicts = make("numeric").judge(items, Told(answers=(constant,) * len(items)), None)
    assert mean([v.score for v in verdicts]) <= 0.4


def test_format_failures_are_counted() -> None:
    """An answer without a number is malformed and 0; a wrong number is wrong only. GSM8K's solutions may be the good answer."""
    items = [Item(prompt=str(n), good="3+2=5\n#### 5") for n in range(4)]
    verdicts = make("numeric").judge(items, Told(answers=("5", "6", "five", "")), None)
    assert [(v.score, v.malformed) for v in verdicts] == [(1.0, False), (0.0, False), (0.0, True), (0.0, True)]


def test_a_good_answer_without_a_number_is_refused() -> None:
    """It is said before any model is asked."""
    with pytest.raises(ValueError, match="no number in its good answer 'many'"):
        make("numeric").asks([Item(prompt="?", good="many")])
    with pytest.raises(ValueError, match="max_tokens"):
        make("numeric", max_tokens=0)
