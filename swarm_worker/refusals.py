"""Whether an answer is a refusal: by the phrases that one begins with. Pure."""

from __future__ import annotations

from collections.abc import Sequence

WITHIN = 120
"""Characters in which a phrase must begin: what comes later is told of, not done."""


def is_refusal(answer: str, phrases: Sequence[str]) -> bool:
    """Whether one of ``phrases`` stands near the beginning, in whatever case and with whatever apostrophe."""
    begins = _plain(answer.strip())
    return any(0 <= begins.find(_plain(phrase)) <= WITHIN for phrase in phrases)


def _plain(text: str) -> str:
    return " ".join(text.replace("\u2019", "'").casefold().split())
