"""Text that people will read in a terminal, a table or a log: refused where it could show something other than it is."""

from __future__ import annotations

import unicodedata

from registry.errors import BadInput

_BIDI = set(
    "\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)  # turn the order of what is shown
_UNSEEN = set("\u200b\u2060\ufeff")
_BREAKS = set("\n\t")


def plain(value: str, field: str, most: int) -> str:
    """``value``, or ``BadInput`` that names ``field``: too long, control or invisible characters, a turned direction."""
    if len(value) > most:
        raise BadInput(f"'{field}' has {len(value)} characters, at most {most} are kept.", field=field)
    for character in value:
        hidden = character in _BIDI or character in _UNSEEN
        if hidden or (unicodedata.category(character) in ("Cc", "Cs", "Co", "Cn") and character not in _BREAKS):
            raise BadInput(f"'{field}' holds U+{ord(character):04X}, which cannot be shown as what it is.", field=field)
    return value
