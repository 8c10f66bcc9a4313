"""Feedback frozen for a run: one item a prompt, split into search and confirm by content. Pure.

How feedback becomes items: of several feedbacks by one rater on one prompt the latest counts (by time, then id). A
correction is good, and the answer it corrects is bad if it differs; an answer rated above .5 is good, below .5 bad, at
.5 says nothing; of a pair the preferred is good and the rejected bad. Items of one prompt are merged: the good of the
strongest kind (correction, then pair, then rating) and the latest of that kind, and likewise the bad, which must differ
from the good. ``checkable``: the good is a correction or an answer rated up.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime

from registry.canonical import canonical, digest
from registry.errors import BadInput
from registry.records import Feedback, Message, Snapshot, SnapshotItem

_RATED, _PAIRED, _CORRECTED = 1, 2, 3
_Side = tuple[int, datetime, str, str]  # strength, when, feedback id, text: the greatest counts


def freeze(adapter: str, feedbacks: Iterable[Feedback], *, limit_search: int, seed: int, at: datetime) -> Snapshot:
    """The snapshot of an adapter's feedback: half of the items to search, half to confirm.

    Which half an item belongs to and where it stands follow from a hash of its prompt and ``seed``, so neither the
    order of the feedback nor later feedback on other prompts moves it across (but for the cap: search keeps its first
    ``limit_search`` items, what is over goes to confirm). The digest is taken over the canonical JSON of
    all the rest.
    """
    items = sorted(_items(feedbacks), key=lambda item: _draw(item, seed))
    drawn = [item for item in items if _draw(item, seed)[0] % 2 == 0]
    kept = {item.digest for item in drawn[:limit_search]}
    return _named(
        adapter,
        at,
        search=tuple(item for item in items if item.digest in kept),
        confirm=tuple(item for item in items if item.digest not in kept),
    )


def check_disjoint(snapshot: Snapshot) -> None:
    """Refuses a snapshot in which a prompt is in both halves: what was searched on must not confirm."""
    shared = sorted({item.digest for item in snapshot.search} & {item.digest for item in snapshot.confirm})
    if shared:
        raise BadInput(
            f"{len(shared)} items are in both halves of the snapshot: {', '.join(shared[:5])}.",
            field="snapshot",
            items=shared,
        )


def item_digest(messages: Sequence[Message] | None, prompt: str | None) -> str:
    """The name of a prompt: sha256 over the canonical JSON of ``{"messages": [...]}`` or ``{"prompt": ...}``."""
    if messages:
        return digest({"messages": [message.model_dump(mode="json") for message in messages]})
    return digest({"prompt": prompt})


def _named(
    adapter: str, at: datetime, *, search: tuple[SnapshotItem, ...], confirm: tuple[SnapshotItem, ...]
) -> Snapshot:
    blank = Snapshot(digest="sha256:" + "0" * 64, adapter=adapter, frozen_at=at, search=search, confirm=confirm)
    check_disjoint(blank)
    return blank.model_copy(update={"digest": digest(blank.model_dump(mode="json", exclude={"digest"}))})


def _items(feedbacks: Iterable[Feedback]) -> list[SnapshotItem]:
    """One item a prompt, of those that say something."""
    prompts: dict[str, dict[str, Feedback]] = defaultdict(dict)
    for feedback in sorted(feedbacks, key=lambda feedback: (feedback.at, feedback.id)):
        if feedback.messages or feedback.prompt:
            prompts[item_digest(feedback.messages, feedback.prompt)][feedback.rater] = feedback  # the latest stays
    found = (_item(name, list(said.values())) for name, said in prompts.items())
    return [item for item in found if item is not None]


def _item(name: str, said: list[Feedback]) -> SnapshotItem | None:
    sides = [_sides(feedback) for feedback in said]
    good = max((good for good, _ in sides if good), default=None)
    bads = (bad for _, bad in sides if bad)
    bad = max((bad for bad in bads if good is None or bad[3].strip() != good[3].strip()), default=None)
    if good is None and bad is None:
        return None
    return SnapshotItem(
        digest=name,
        messages=said[0].messages or None,
        prompt=None if said[0].messages else said[0].prompt,
        good=good[3] if good else None,
        bad=bad[3] if bad else None,
        checkable=good is not None and good[0] != _PAIRED,
    )


def _sides(said: Feedback) -> tuple[_Side | None, _Side | None]:
    """What one feedback holds to be good and to be bad."""

    def side(strength: int, text: str | None) -> _Side | None:
        return (strength, said.at, said.id, text) if text is not None else None

    if said.correction is not None:
        differs = said.answer is not None and said.answer.strip() != said.correction.strip()
        return side(_CORRECTED, said.correction), side(_CORRECTED, said.answer) if differs else None
    if said.preferred is not None or said.rejected is not None:
        return side(_PAIRED, said.preferred), side(_PAIRED, said.rejected)
    if said.rating is None or said.rating == 0.5:
        return None, None
    return (side(_RATED, said.answer), None) if said.rating > 0.5 else (None, side(_RATED, said.answer))


def _draw(item: SnapshotItem, seed: int) -> tuple[int, str]:
    """A number that looks random and follows from the prompt and the seed; the name breaks a tie."""
    drawn = hashlib.sha256(canonical({"item": item.digest, "seed": seed})).digest()
    return int.from_bytes(drawn[:8], "big"), item.digest
