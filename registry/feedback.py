"""What raters said of answers: an append-only log an adapter, idempotent by feedback id."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from registry.canonical import canonical
from registry.connection import RegistryRedis
from registry.errors import AdapterUnknown, BadInput, FeedbackConflict, ShoalError, VersionUnknown
from registry.keys import Keys
from registry.lua import script
from registry.ratings import nano
from registry.records import Feedback, Interaction
from registry.standing import PARTS, rank, slots, standing

_PAGE = 1000
_CONTENT = 64  # characters of a fingerprint
_NOT_SAID = {"at", "by", "schema_number"}
Kept = tuple[Feedback, bool]
"""The record that is kept, and whether it is new."""


class FeedbackLog:
    """Feedback in the order it came.

    Guarantees: an id is stored once; the same id with the same content is answered with the first record; with other
    content it is ``FeedbackConflict``. When it came, and by which key, is not content. A later rating by the same rater of
    the same answer replaces the earlier in the figures (``registry/standing.py``); the log keeps both.
    """

    def __init__(self, client: RegistryRedis, keys: Keys) -> None:
        self._redis = client
        self._keys = keys
        self._add = script(client, "add_feedback")

    def add(self, feedback: Feedback) -> Kept:
        """Stores it."""
        return self.add_many([feedback])[0]

    def add_many(self, feedbacks: Sequence[Feedback], *, there: bool = False) -> list[Kept]:
        """Stores them in order, in one round trip an adapter; all, or on an error none.

        Of several adapters each is looked at before the first is stored, for what one step stores is one adapter's: an id that
        another caller takes with other content in between is a ``FeedbackConflict`` of its own adapter's items alone.
        ``RegistryDown`` may come between two adapters: repeated, it says the same of what was kept.

        ``there``: an adapter or a version that does not exist is ``AdapterUnknown`` or ``VersionUnknown``, checked in the
        step that stores.
        """
        _same_content(feedbacks)
        kept: list[Kept] = []
        for answer in self._added(feedbacks, "all", there):
            if isinstance(answer, ShoalError):
                raise answer
            kept.append(answer)
        return kept

    def add_each(self, feedbacks: Sequence[Feedback], *, there: bool = False) -> list[Kept | ShoalError]:
        """Stores each by itself, in order: an error keeps back its own item only."""
        return self._added(feedbacks, "each", there)

    def _added(self, feedbacks: Sequence[Feedback], how: str, there: bool) -> list[Kept | ShoalError]:
        batches: dict[str, list[int]] = {}
        for place, feedback in enumerate(feedbacks):
            batches.setdefault(feedback.adapter, []).append(place)
        told = [(feedback, fingerprint(feedback)) for feedback in feedbacks]
        if how == "all" and len(batches) > 1:
            for adapter, places in batches.items():
                self._stored(adapter, [told[place] for place in places], "look", there)
        answers: dict[int, Kept | ShoalError] = {}
        for adapter, places in batches.items():
            batch = [told[place] for place in places]
            answers |= zip(places, self._stored(adapter, batch, how, there), strict=True)
        return [answers[place] for place in range(len(feedbacks))]

    def _stored(
        self, adapter: str, batch: list[tuple[Feedback, str]], how: str, there: bool
    ) -> list[Kept | ShoalError]:
        """One call, of one adapter. An id that comes twice is new the first time and known the second. ``how``: see
        ``lua/add_feedback.lua``; a look answers nothing, or raises what storing all would."""
        names = self._keys
        keys = [names.feedback(adapter), names.feedback_order(adapter), names.figures(adapter)]
        keys += [names.feedback_slots(adapter), names.feedback_superseded(adapter), names.adapter(adapter)]
        while True:
            args = [part for feedback, content in batch for part in _arguments(feedback, content)]
            told: list[str] = self._add(keys=keys, args=[how, "there" if there else "", *args])
            answer, *held = told
            if answer == "done":
                if how == "look":
                    return []
                return [_answered(feedback, word) for (feedback, _), word in zip(batch, held, strict=True)]
            refused, record = held
            error = next(_answered(one, f"{answer} {record}") for one, _ in batch if one.id == refused)
            if isinstance(error, ShoalError):
                raise error
            # The content of a record that was stored with other fields than today's is told by its record alone.
            batch = [(one, record[:_CONTENT] if one.id == refused else content) for one, content in batch]

    def count(self, adapter: str) -> int:
        """How many there are, ever."""
        return int(self._redis.hlen(self._keys.feedback(adapter)))

    def superseded_count(self, adapter: str) -> int:
        """Of how many a part was replaced by a later one."""
        return int(self._redis.hlen(self._keys.feedback_superseded(adapter)))

    def superseded(self, adapter: str, ids: Sequence[str]) -> list[dict[str, str]]:
        """For each id the parts of it that were replaced (``rating``, ``correction``, ``pair``), and the id of what did."""
        told: Any = self._redis.hmget(self._keys.feedback_superseded(adapter), list(ids)) if ids else []
        return [dict(part.split(" ", 1) for part in (word or "").split(",") if part) for word in told]

    def all(self, adapter: str) -> list[Feedback]:
        """Every one, oldest first; what was replaced, too."""
        return [feedback for page in self.pages(adapter) for feedback in page]

    def standing(self, adapter: str) -> list[Feedback]:
        """Every one, oldest first, without what a later one replaced."""
        return standing(self.all(adapter))

    def pages(self, adapter: str, beyond: int = 0) -> Iterator[list[Feedback]]:
        """Every one, oldest first; a thousand at a time, so that Redis answers others in between. ``beyond``: without the
        first so many."""
        redis: Any = self._redis
        order, after = self._keys.feedback_order(adapter), f"({beyond}"
        while page := redis.zrangebyscore(order, after, "+inf", start=0, num=_PAGE, withscores=True):
            yield self._read(adapter, [member for member, _ in page])
            after = f"({page[-1][1]:.0f}"

    def _read(self, adapter: str, ids: Iterable[Any]) -> list[Feedback]:
        wanted = list(ids)
        records = self._redis.hmget(self._keys.feedback(adapter), wanted) if wanted else []
        return [Feedback.model_validate_json(record[_CONTENT + 1 :]) for record in records if record]

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
    """The content of a feedback, in 64 hex digits: what was said of which answer.

    A field that says nothing but its default is left out, so a record that gains fields keeps its fingerprint.
    """
    said = feedback.model_dump(mode="json", exclude=_NOT_SAID, exclude_defaults=True)
    return hashlib.sha256(canonical(said)).hexdigest()


def join(fields: dict[str, Any], interaction: Interaction) -> Feedback:
    """The whole record of feedback that came by request id: what the rater said, of the answer that was recorded.

    ``fields``: id, at, and what the caller sent. Prompt, answer, adapter, version and sampling parameters come from the
    interaction, so a caller cannot pin a rating on another version; so does the conversation, where the caller names none.
    """
    recorded = {
        "request_id": interaction.request_id,
        "adapter": interaction.adapter,
        "version": interaction.version,
        "messages": interaction.messages,
        "prompt": interaction.prompt,
        "answer": interaction.answer,
        "sampling": interaction.sampling,
        "conversation": fields.get("conversation") or interaction.conversation,
    }
    return Feedback(**{**fields, **recorded})


def _arguments(feedback: Feedback, content: str) -> tuple[str, ...]:
    """One item as ``lua/add_feedback.lua`` takes it."""
    version = "" if feedback.version is None else str(feedback.version)
    rating = "" if feedback.rating is None else str(nano(feedback.rating))
    record, places = feedback.model_dump_json(exclude_none=True), slots(feedback)
    return feedback.id, content, record, rank(feedback), version, rating, *(places.get(part, "") for part in PARTS)


def _answered(feedback: Feedback, word: str) -> Kept | ShoalError:
    """What ``lua/add_feedback.lua`` says of one item."""
    if not word:
        return feedback, True
    state, _, held = word.partition(" ")
    if state == "unknown":
        unknown = AdapterUnknown(feedback.adapter)
        return VersionUnknown(feedback.adapter, feedback.version) if held and feedback.version else unknown
    if state == "conflict":
        if not _same(feedback, held):
            return FeedbackConflict(feedback.id)
        held = held[_CONTENT + 1 :]
    return Feedback.model_validate_json(held), False


def _same(feedback: Feedback, held: str) -> bool:
    """Whether what is held under the id (its fingerprint, a blank, its record) says the same."""
    return fingerprint(Feedback.model_validate_json(held[_CONTENT + 1 :])) == fingerprint(feedback)


def _same_content(feedbacks: Sequence[Feedback]) -> None:
    seen: dict[tuple[str, str], str] = {}
    for feedback in feedbacks:
        content = fingerprint(feedback)
        if seen.setdefault((feedback.adapter, feedback.id), content) != content:
            raise FeedbackConflict(feedback.id)
