"""Whether the number that an answer ends with is the right one: GSM8K (arXiv:2110.14168) and its kin.

Which number counts is anchored: the last ``\\boxed{...}``, else what follows the last ``####`` (GSM8K's own mark), else the
last number. Whether two are equal (1,000 and 1000, 1/2 and 0.5, 50% and 0.5) is for math-verify, whose first argument is the
right answer. Only this one expression is compared: a long string of digits that holds every number matches none
(`research/model_swarms.md`, defect E1).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from swarm_worker.scoring.engine import Asked, Told
from swarm_worker.utilities.options import first_answer
from swarm_worker.utilities.utility import Item, Verdict, mean

LONGEST = 100
"""Characters of an expression that may count as a number."""

_NUMBER = re.compile(
    r"(?<![\w.)\]-])-?\\[dt]?frac\s*\{-?\d+\}\s*\{\d+\}|"
    r"(?:(?<![\w.)\]-])-\s?)?\$?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:\s?/\s?\d+(?:\.\d+)?)?\s?\\?%?|\.\d+"
)
# What sympy would try to write out, for hours: towers of powers, huge exponents, factorials.
_RUNAWAY = re.compile(r"\^.*\^|\*\*|!|\^\s*\{?\s*\(?-?\d{3,}", re.DOTALL)
_SECONDS = 5
_INTEGER = re.compile(r"-?[\d,]+")


@dataclass(frozen=True, slots=True)
class Numeric:
    """1 where the answer's number equals the one in ``item.good`` (found there in the same way), else 0.

    An answer without a number is malformed. ``max_tokens``: longer answers are cut there; what a completion model writes
    behind its answer as a next question does not count. Raises ``ValueError`` for an item whose good answer has no number.
    """

    name: ClassVar[str] = "numeric"
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    needs_reference: ClassVar[bool] = False
    max_tokens: int = 256

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be 1 or more, not {self.max_tokens!r}")

    def asks(self, items: Sequence[Item]) -> Asked:
        for item in items:
            if number_in(item.right) is None:
                raise ValueError(f"item {item.digest[:12]} has no number in its good answer {item.right[:50]!r}")
        return Asked(answers=tuple(item.question for item in items), max_tokens=self.max_tokens)

    def judge(self, items: Sequence[Item], told: Told, reference: Told | None) -> list[Verdict]:
        verdicts = []
        for item, answer in zip(items, told.answers, strict=True):
            right, number = number_in(item.right), number_in(answer)
            if number is None or right is None:
                verdicts.append(Verdict(0.0, malformed=True))
            else:
                verdicts.append(Verdict(float(is_equal(right, number))))
        return verdicts

    def combine(self, items: Sequence[Item], values: Sequence[float | None]) -> float:
        return mean(values)


def number_in(answer: str) -> str | None:
    """The one expression of an answer that counts as its number; None where there is none."""
    text = first_answer(answer)
    boxed = _last_boxed(text)
    if boxed is not None:
        found: str | None = boxed.strip()
    elif "####" in text:
        found = _first(text.rpartition("####")[2])
    else:
        numbers = _NUMBER.findall(text)
        found = numbers[-1].strip() if numbers else None
    if not found or len(found) > LONGEST or not any(c.isdigit() for c in found) or _RUNAWAY.search(found):
        return None
    return found.replace("$", "")


@lru_cache(maxsize=100_000)
def is_equal(right: str, number: str) -> bool:
    """Whether math-verify finds them equal. ``right`` and ``number`` as from ``number_in``."""
    if right == number:
        return True
    if _INTEGER.fullmatch(right) and _INTEGER.fullmatch(
        number
    ):  # most are, and math-verify takes milliseconds for each
        return int(right.replace(",", "")) == int(number.replace(",", ""))
    from math_verify import parse, verify

    # Its time limit is an alarm signal, which only the main thread may set; what could run away never gets here.
    limit = _SECONDS if threading.current_thread() is threading.main_thread() else None
    parsed = [parse(f"${text}$", parsing_timeout=limit) for text in (right, number)]
    return bool(verify(parsed[0], parsed[1], timeout_seconds=limit))


def _first(text: str) -> str | None:
    match = _NUMBER.search(text.strip().split("\n", 1)[0])
    return match[0].strip() if match else None


def _last_boxed(text: str) -> str | None:
    """What stands in the last ``\\boxed{...}``, braces balanced; None where there is none that is closed."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth = 0
    for end in range(start + len("\\boxed"), len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[start + len("\\boxed{") : end]
    return None
