"""Text that people will read in a terminal, a table or a log: refused where it could show something other than it is."""

from __future__ import annotations

import unicodedata
from typing import Any

from pydantic_core import to_json

from registry.errors import BadInput

_BIDI = set(
    "\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)  # turn the order of what is shown
_UNSEEN = set("\u200b\u2060\ufeff")
_BREAKS = set("\n\t\u2028\u2029")
_ODD = ("Cc", "Cs", "Co", "Cn", "Zl", "Zp")
LONGEST_REASON = 2000


def plain(value: str, field: str, most: int, *, lines: bool = True) -> str:
    """``value``, or ``BadInput`` that names ``field``: too long, control or invisible characters, a turned direction. Not
    ``lines``: a break is odd, too."""
    if len(value) > most:
        raise BadInput(f"'{field}' has {len(value)} characters, at most {most} are kept.", field=field)
    if problem := oddity(value, lines=lines):
        raise BadInput(f"'{field}' holds {problem}.", field=field)
    return value


def oddity(value: str, *, lines: bool = True) -> str | None:
    """What ``value`` holds that no person should be shown, in words; None for nothing. ``lines`` as in ``plain``."""
    for character in value:
        if _odd(character) and not (lines and character in _BREAKS):
            return f"U+{ord(character):04X}, which cannot be shown as what it is"
    return None


def a_reason(value: str) -> str:
    """Why something was moved: one line, for it ends a line of the history. ``BadInput``."""
    return plain(value, "reason", LONGEST_REASON, lines=False)


def one_line(text: str, most: int = LONGEST_REASON) -> str:
    """Text of wherever it comes from, as a reason may be: breaks become blanks, what cannot be shown a mark, and it is cut."""
    if not text.isprintable():
        text = "".join(" " if one in _BREAKS or one == "\r" else "\ufffd" if _odd(one) else one for one in text)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def encodable(value: Any) -> Any:
    """What was read from JSON, or ``ValueError``: a parser takes half a surrogate pair, and nothing can write it down again."""
    try:
        to_json(value)
    except ValueError:
        raise ValueError("it holds half a surrogate pair, which is no character, or is nested too deeply") from None
    return value


def _odd(character: str) -> bool:
    return character in _BIDI or character in _UNSEEN or unicodedata.category(character) in _ODD
