"""What of the feedback stands: a later word of one rater on one answer replaces the earlier. Pure.

The log keeps both. What is replaced is a *part*: a rating replaces a rating, a correction a correction, and a pair one of the
same two answers; so a correction that follows a thumb down leaves the thumb as it is. One rater is one name under one API key,
so no key speaks over another. Nobody knows whether two who are ``anonymous`` are one: they replace each other only on one
request, which one user made. ``later`` is by the time of the feedback, whatever order it arrives in; then by a hash of its id.
``lua/add_feedback.lua`` does the same as things come in; a test holds the two together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from registry.canonical import canonical
from registry.records import ANONYMOUS, Feedback

PARTS: dict[str, dict[str, Any]] = {
    "rating": {"rating": None, "thumbs": None, "stars": None},
    "correction": {"correction": None},
    "pair": {"preferred": None, "rejected": None},
}
"""Each part with the fields that hold it, emptied."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def slots(feedback: Feedback) -> dict[str, str]:
    """For each part of the feedback the place that it takes, 32 hex digits: of two in one place the later stands.

    Empty for anonymous feedback that names no request.
    """
    if feedback.request_id is None and feedback.rater == ANONYMOUS:
        return {}
    told = feedback.model_dump(include={"rating", "correction", "preferred"}, exclude_none=True)
    return {part: _slot(feedback, part) for part, fields in PARTS.items() if not told.keys().isdisjoint(fields)}


def rank(feedback: Feedback) -> str:
    """32 characters; the later feedback's is the greater."""
    micros = max(0, (feedback.at - _EPOCH) // _MICROSECOND)
    return f"{micros:016d}{hashlib.sha256(feedback.id.encode()).hexdigest()[:16]}"


def standing(feedbacks: Iterable[Feedback]) -> list[Feedback]:
    """The feedback without the parts that were replaced, in its order; what nothing is left of is left out."""
    told = list(feedbacks)
    taken: dict[str, tuple[str, str]] = {}
    for feedback in told:
        for place in slots(feedback).values():
            taken[place] = max(taken.get(place, ("", "")), (rank(feedback), feedback.id))
    found = (without(feedback, _lost(feedback, taken)) for feedback in told)
    return [feedback for feedback in found if feedback is not None]


def without(feedback: Feedback, parts: Iterable[str]) -> Feedback | None:
    """The feedback without these parts; None where nothing of what it said is left but words."""
    gone = set(parts)
    if not gone:
        return feedback
    if gone >= slots(feedback).keys():
        return None
    return feedback.model_copy(update={name: empty for part in gone for name, empty in PARTS[part].items()})


def _lost(feedback: Feedback, taken: Mapping[str, tuple[str, str]]) -> list[str]:
    return [part for part, place in slots(feedback).items() if taken[place][1] != feedback.id]


def _slot(feedback: Feedback, part: str) -> str:
    named: dict[str, Any] = {"by": feedback.by, "rater": feedback.rater, "part": part}
    if feedback.request_id is not None:
        named["request"] = feedback.request_id
    else:
        named |= {"version": feedback.version, "prompt": feedback.prompt, "answer": feedback.answer}
        named["messages"] = [message.model_dump() for message in feedback.messages or ()]
    if part == "pair":
        named["pair"] = sorted((str(feedback.preferred), str(feedback.rejected)))
    return hashlib.sha256(canonical(named)).hexdigest()[:32]
