"""What raters said of answers: an append-only log an adapter, idempotent by feedback id."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from registry.canonical import canonical
from registry.connection import RegistryRedis
from registry.errors import BadInput, FeedbackConflict
from registry.keys import Keys
from registry.lua import script
from registry.records import Feedback, Interaction

_PAGE = 1000
_LATER = frozenset({"conversation", "labels"})
"""Fields that feedback did not have at first."""


class FeedbackLog:
    """Feedback in the order it came.

    Guarantees: an id is stored once; the same id with the same content is answered with the first record; with other
    content it is ``FeedbackConflict`` and nothing is stored. The time of arrival is not content.
    """

    def __init__(self, client: RegistryRedis, keys: Keys) -> None:
        self._redis = client
        self._keys = keys
        self._add = script(client, "add_feedback")

    def add(self, feedback: Feedback) -> tuple[Feedback, bool]:
        """Stores it. Answers the record that is kept, and whether it is new."""
        return self.add_many([feedback])[0]

    def add_many(self, feedbacks: Sequence[Feedback]) -> list[tuple[Feedback, bool]]:
        """Stores them in order, in one round trip an adapter; those of one adapter all, or on a conflict none."""
        _same_content(feedbacks)
        batches: dict[str, dict[str, Feedback]] = {}
        for feedback in feedbacks:
            batches.setdefault(feedback.adapter, {}).setdefault(feedback.id, feedback)
        answers: dict[tuple[str, str], tuple[Feedback, bool]] = {}
        for adapter, batch in batches.items():
            args = [part for f in batch.values() for part in (f.id, fingerprint(f), f.model_dump_json(), *_rated(f))]
            keys = [self._keys.feedback(adapter), self._keys.feedback_order(adapter), self._keys.figures(adapter)]
            answer, *held = self._add(keys=keys, args=args)
            if answer == "conflict":
                raise FeedbackConflict(held[0])
            for feedback, record in zip(batch.values(), held, strict=True):
                kept = Feedback.model_validate_json(record) if record else feedback
                answers[adapter, feedback.id] = (kept, not record)
        told: list[tuple[Feedback, bool]] = []
        for feedback in feedbacks:  # an id that came twice in one call is new only the first time
            kept, new = answers[feedback.adapter, feedback.id]
            answers[feedback.adapter, feedback.id] = (kept, False)
            told.append((kept, new))
        return told

    def count(self, adapter: str) -> int:
        """How many there are, ever."""
        return int(self._redis.hlen(self._keys.feedback(adapter)))

    def all(self, adapter: str) -> list[Feedback]:
        """Every one, oldest first; read a thousand at a time, so that Redis answers others in between."""
        ids = self._redis.zrange(self._keys.feedback_order(adapter), 0, -1)
        pages = (ids[start : start + _PAGE] for start in range(0, len(ids), _PAGE))
        return [feedback for page in pages for feedback in self._read(adapter, page)]

    def _read(self, adapter: str, ids: Iterable[Any]) -> list[Feedback]:
        wanted = list(ids)
        records = self._redis.hmget(self._keys.feedback(adapter), wanted) if wanted else []
        return [Feedback.model_validate_json(record[65:]) for record in records if record]

    def list(self, adapter: str, limit: int = 100, before: str | None = None) -> list[Feedback]:
        """Up to ``limit``, newest first; ``before`` is the id of the last one of the page before."""
        order = self._keys.feedback_order(adapter)
        below: str = "+inf"
        if before is not None:
            place = self._redis.zscore(order, before)
            if place is None:
                raise BadInput(f"'before' names no feedback of '{adapter}'.", field="before")
            below = f"({place:.0f}"
        ids = self._redis.zrevrangebyscore(order, below, "-inf", start=0, num=limit)
        return self._read(adapter, ids)


def fingerprint(feedback: Feedback) -> str:
    """The content of a feedback, in 64 hex digits: everything but the time it came.

    What came to the record later is left out where it is not set, and the schema stands as it was: an id that was stored
    before an upgrade may be sent again after it.
    """
    content = feedback.model_dump(mode="json", exclude={"at"}) | {"schema_number": 1}
    said = {name: value for name, value in content.items() if value or name not in _LATER}
    return hashlib.sha256(canonical(said)).hexdigest()


def join(fields: dict[str, Any], interaction: Interaction) -> Feedback:
    """The whole record of feedback that came by request id: what the rater said, of the answer that was recorded.

    ``fields``: id, at, and what the caller sent. Prompt, answer, adapter and version come from the interaction, so a
    caller cannot pin a rating on another version.
    """
    recorded = {
        "request_id": interaction.request_id,
        "adapter": interaction.adapter,
        "version": interaction.version,
        "messages": interaction.messages,
        "prompt": interaction.prompt,
        "answer": interaction.answer,
    }
    return Feedback(**{**fields, **recorded})


def _rated(feedback: Feedback) -> tuple[str, str]:
    """The version and its rating, where the feedback has both."""
    if feedback.version is None or feedback.rating is None:
        return "", ""
    return str(feedback.version), repr(feedback.rating)


def _same_content(feedbacks: Sequence[Feedback]) -> None:
    seen: dict[tuple[str, str], str] = {}
    for feedback in feedbacks:
        content = fingerprint(feedback)
        if seen.setdefault((feedback.adapter, feedback.id), content) != content:
            raise FeedbackConflict(feedback.id)
