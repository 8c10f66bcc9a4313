"""JSON from a stranger: read with bounds, before a parser builds anything of it.

``json.loads`` takes a name twice, numbers that are no JSON, and spends gigabytes on megabytes of brackets. Here the text is
measured first, and whatever is odd is refused by a reason of its own.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)  # never turns back: a string without an end is read once
_LONGEST_NUMBER = 40  # digits; Python would take thousands
_SURROGATES = re.compile("[\ud800-\udfff]")


class StrictJsonError(ValueError):
    """``kind``: syntax, too_deep, too_many, duplicate_key, number, text. The message says what was found."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def read_json(raw: bytes, *, deepest: int = 16, most_values: int = 100_000) -> Any:
    """The value, or ``StrictJsonError``. Memory is bounded by ``most_values``, whatever the bytes are."""
    brackets = re.sub(rb"[^\[\]{},]", b"", _STRING.sub(b"", raw))
    if len(brackets) > most_values:
        raise StrictJsonError("too_many", f"it has more than {most_values} values")
    depth = deepest_yet = 0
    for bracket in brackets.replace(b",", b""):
        depth += 1 if bracket in b"[{" else -1
        deepest_yet = max(deepest_yet, depth)
    if deepest_yet > deepest:
        raise StrictJsonError("too_deep", f"it is nested {deepest_yet} levels deep")
    try:
        text = raw.decode("utf-8")
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_int=_whole,
            parse_float=_finite,
            parse_constant=_no_constant,
        )
    except StrictJsonError:
        raise
    except (ValueError, RecursionError) as error:
        raise StrictJsonError("syntax", f"it is not JSON ({error})") from error
    if "\\u" in text and _SURROGATES.search(json.dumps(value, ensure_ascii=False)):
        raise StrictJsonError("text", "it holds half a surrogate pair, which is no character")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    held = dict(pairs)
    if len(held) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise StrictJsonError("duplicate_key", f"it has {twice[:80]!r} twice")
    return held


def _whole(digits: str) -> int:
    if len(digits) > _LONGEST_NUMBER:
        raise StrictJsonError("number", f"it holds a number of {len(digits)} digits")
    return int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise StrictJsonError("number", f"it holds {digits[:40]}, which is no finite number")
    return number


def _no_constant(name: str) -> float:
    raise StrictJsonError("number", f"it holds {name}")
