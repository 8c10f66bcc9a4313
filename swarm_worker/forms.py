"""Whether an answer has the form that was asked for. Pure."""

from __future__ import annotations

import json

from registry.suites import Form

SECONDS = 1.0
"""How long an expression may look at one answer: one that backtracks without end must not hold a worker up."""


def has_form(answer: str, form: Form) -> bool:
    """Whether the answer, its ends bare, is all that ``form`` says. An expression that takes too long does not match."""
    text = answer.strip()
    if form.max_characters is not None and len(text) > form.max_characters:
        return False
    if form.json_type is not None and not _is_json(text, form.json_type):
        return False
    return form.matches is None or _matches(form.matches, text)


def _is_json(text: str, kind: str) -> bool:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return {"any": True, "object": isinstance(value, dict), "array": isinstance(value, list)}[kind]


def _matches(pattern: str, text: str) -> bool:
    import regex  # unlike re it can be told when to give up

    try:
        return regex.fullmatch(pattern, text, flags=regex.V0, timeout=SECONDS) is not None
    except (TimeoutError, regex.error):
        return False
