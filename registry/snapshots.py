"""Feedback frozen for a run: filtered, without repetitions, capped by rater, balanced, and split in two. Pure.

    feedback -> filter -> one item a prompt -> near-duplicates dropped -> caps and balance -> search | confirm

The same feedback, filter, seed and limits give the same bytes, in any order and on any machine; their sha256 is the name of
the snapshot and of the artifact that holds it. It carries all that a later run on it needs: the items and both halves, the
filter, the seed, and the ids of the feedback that decided each item. What the steps are: ``registry/snapshot_items.py``,
``registry/near_duplicates.py``, ``registry/halves.py``; what the filter asks: ``registry/snapshot_filter.py``.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from registry.canonical import digest
from registry.chats import chat_pairs
from registry.components import components
from registry.errors import BadInput
from registry.halves import LEVELS, By, Halves, Limits, Related, draw, split
from registry.near_duplicates import near_pairs
from registry.records import ANONYMOUS, Feedback, Snapshot, SnapshotItem
from registry.snapshot_filter import FEWEST, SnapshotFilter
from registry.snapshot_items import Drafted, by_prompt, drafted, item_digest, most_of_one, two_sided
from registry.vetoes import heard

__all__ = ["check_disjoint", "content", "freeze", "item_digest", "read"]

CONFIRM_ITEMS = 1000
_NEXT = 0.7
"""By how much a cap is lowered where groups are too big to be split soundly."""
_NO_DIGEST = "sha256:" + "0" * 64
_UNNAMED = {"digest", "frozen_at"}
"""What the digest is not taken over: itself, and when it was taken."""


def freeze(
    adapter: str,
    feedbacks: Iterable[Feedback],
    *,
    limit_search: int,
    seed: int,
    at: datetime,
    chosen: SnapshotFilter | None = None,
    limit_confirm: int = CONFIRM_ITEMS,
) -> Snapshot:
    """The snapshot of an adapter's feedback: what ``chosen`` takes of it, in two halves that share nothing.

    Of the caps on raters the loosest is taken that holds in both halves, at the strictest way of splitting that leaves
    enough; where none leaves ``FEWEST`` items, the cap gives way as far as that takes, and ``cap_held`` is False.
    """
    chosen = (chosen or SnapshotFilter()).frozen(at)
    taken = [feedback for feedback in feedbacks if takes(chosen, feedback)]
    pool = _Pool.of(taken, chosen, seed, Limits(limit_search, limit_confirm))
    halves, cap = pool.halves()
    both = two_sided(taken)
    return _named(
        Snapshot(
            digest=_NO_DIGEST,
            adapter=adapter,
            frozen_at=at,
            search=tuple(_item(draft, both) for draft in halves.search),
            confirm=tuple(_item(draft, both) for draft in halves.confirm),
            filter=chosen,
            seed=seed,
            limits=(limit_search, limit_confirm),
            split_by=halves.by,
            rater_cap=cap,
            cap_held=halves.fair(chosen.max_rater_share),
            feedback=digest(sorted(feedback.id for feedback in taken)),
            counts=pool.counts(taken, halves, cap),
        )
    )


def takes(chosen: SnapshotFilter, feedback: Feedback) -> bool:
    """Whether the filter takes a feedback: time, version, rater and labels."""
    return (
        (chosen.since is None or feedback.at >= chosen.since)
        and (chosen.until is None or feedback.at < chosen.until)
        and (chosen.versions is None or feedback.version in chosen.versions)
        and chosen.raters.takes(feedback.rater)
        and chosen.labels.takes_any(feedback.labels)
    )


def content(snapshot: Snapshot) -> dict[str, Any]:
    """The JSON value that is stored; its digest is the snapshot's."""
    return snapshot.model_dump(mode="json", exclude=_UNNAMED)


def read(get_json: Callable[[str], Any], name: str) -> Snapshot:
    """The snapshot that is stored under a digest, also one of an earlier schema. Raises what ``get_json`` raises."""
    return Snapshot.model_validate({**get_json(name), "digest": name})


def check_disjoint(snapshot: Snapshot) -> None:
    """Refuses a snapshot in which a prompt is in both halves: what was searched on must not confirm."""
    shared = sorted({item.digest for item in snapshot.search} & {item.digest for item in snapshot.confirm})
    if shared:
        raise BadInput(
            f"{len(shared)} items are in both halves of the snapshot: {', '.join(shared[:5])}.",
            field="snapshot",
            items=shared,
        )


def _item(draft: Drafted, both: frozenset[str]) -> SnapshotItem:
    return draft.item.model_copy(update={"two_sided": any(one.rater in both for one in draft.deciding)})


def _named(snapshot: Snapshot) -> Snapshot:
    check_disjoint(snapshot)
    return snapshot.model_copy(update={"digest": digest(content(snapshot))})


@dataclass(frozen=True, slots=True)
class _Prompt:
    """What was said of a prompt, and what that comes to."""

    said: list[Feedback]
    whole: Drafted


@dataclass(frozen=True, slots=True)
class _Pool:
    """What may become items, before caps, balance and split: prompts in the order that the seed draws.

    ``related``: groups of prompts that belong together for what they say; ``near``: how many repeat another and were dropped.
    """

    prompts: dict[str, _Prompt]
    related: Related
    near: int
    chosen: SnapshotFilter
    seed: int
    limits: Limits

    @classmethod
    def of(cls, taken: Sequence[Feedback], chosen: SnapshotFilter, seed: int, limits: Limits) -> _Pool:
        said = heard(by_prompt(taken), chosen.max_rater_share)
        found = {name: draft for name, ones in said.items() if (draft := drafted(name, ones)) is not None}
        # Of several that say nearly the same, and what these join up, that one stays which most raters decided, then one of
        # who decides fewest, so that nobody puts their own in the place of everybody's, then the first: no later repetition
        # takes its place.
        busy = Counter(rater for draft in found.values() for rater in draft.raters)
        drafts = sorted(found.values(), key=lambda d: (-len(d.raters), _busy(d, busy), d.deciding[0].at, d.item.digest))
        near = near_pairs([draft.item for draft in drafts], chosen.near_duplicate_at)
        names = [draft.item.digest for draft in drafts]
        once = [names[group[0]] for group in components(len(drafts), near)]
        joined = components(len(drafts), (*near, *chat_pairs(drafts)))
        kept = once if chosen.near_duplicates == "drop" else names
        return cls(
            prompts={
                name: _Prompt(said[name], found[name])
                for name in sorted(kept, key=lambda name: draw("item", name, seed))
            },
            related=[[names[place] for place in group] for group in joined if len(group) > 1],
            near=len(names) - len(kept),
            chosen=chosen,
            seed=seed,
            limits=limits,
        )

    def halves(self) -> tuple[Halves, int | None]:
        """The halves, and the cap that they were made with: the most items of one rater."""
        for by in LEVELS:
            if found := self._fair(by):
                return found
        most = min(self.chosen.max_per_rater or len(self.prompts), len(self.prompts))
        for by in LEVELS:
            cap = _first(most, partial(self._enough, by)) or self.chosen.max_per_rater
            halves = self.split(by, cap)
            if halves.sound:
                break
        return halves, cap

    def _fair(self, by: By) -> tuple[Halves, int | None] | None:
        """The loosest cap that is fair in both halves, looked for from above; None where too few items would be left.

        A half that one rater fills shrinks with the cap, so each step asks for what the step before would have allowed, and for
        no more than the busiest rater has: a looser cap takes nothing away. Without a limit of shares nothing is capped for the
        sake of a stricter split, either.
        """
        share, cap = self.chosen.max_rater_share, self.chosen.max_per_rater
        halves = self.split(by, cap)
        enough = min(FEWEST, len(halves))
        while len(halves) >= enough:
            if halves.sound and halves.fair(share):
                return halves, cap
            before = cap or min(len(self.prompts), self.limits.search + self.limits.confirm)
            busiest = math.ceil(most_of_one(self.capped(cap)))
            cap = min(before - 1, busiest, halves.allowed(share) if halves.sound else int(_NEXT * before))
            if cap < 1 or share == 1:
                break
            halves = self.split(by, cap)
        return None

    def _enough(self, by: By, cap: int) -> bool:
        return len(self.split(by, cap)) >= FEWEST

    def split(self, by: By, cap: int | None) -> Halves:
        drafts = _balanced(self.capped(cap), self.chosen)
        return split(drafts, by, self.related, seed=self.seed, limits=self.limits)

    def capped(self, cap: int | None) -> list[Drafted]:
        """The items, no rater with more than ``cap`` of them: in the order of the draw, who has theirs is not asked."""
        if cap is None:
            return [prompt.whole for prompt in self.prompts.values()]
        held: defaultdict[str, float] = defaultdict(float)
        found = []
        for name, prompt in self.prompts.items():
            heard = [one for one in prompt.said if one.rater == ANONYMOUS or held[one.rater] + 1 <= cap]
            draft = prompt.whole if len(heard) == len(prompt.said) else drafted(name, heard)
            if draft is not None:
                for rater in draft.raters:
                    held[rater] += draft.weight
                found.append(draft)
        return found

    def counts(self, taken: Sequence[Feedback], halves: Halves, cap: int | None) -> dict[str, int]:
        """What became of the feedback, step by step."""
        capped = self.capped(cap)
        balanced = _balanced(capped, self.chosen)
        return {
            "feedback": len(taken),
            "prompts": len(self.prompts) + self.near,
            "near_duplicates": self.near,
            "over_rater_cap": len(self.prompts) - len(capped),
            "over_balance": len(capped) - len(balanced),
            "over_limits": len(balanced) - len(halves),
        }


def _busy(draft: Drafted, decided: Mapping[str, int]) -> int:
    return min((decided[rater] for rater in draft.raters), default=0)


def _balanced(drafts: list[Drafted], chosen: SnapshotFilter) -> list[Drafted]:
    """As many of each class as of the smallest, or as it takes to keep ``FEWEST``; the first of the draw stay."""
    if chosen.balance == "none":
        return drafts
    classes = [_class(draft.item, chosen.balance) for draft in drafts]
    sizes = Counter(classes)
    most = min(sizes.values(), default=0)
    while sum(min(size, most) for size in sizes.values()) < min(FEWEST, len(drafts)):
        most += 1
    seen: Counter[str] = Counter()
    kept = []
    for name, draft in zip(classes, drafts, strict=True):
        seen[name] += 1
        if seen[name] <= most:
            kept.append(draft)
    return kept


def _class(item: SnapshotItem, balance: str) -> str:
    if balance == "label":
        return ", ".join(item.labels)
    return "good" if item.bad is None else "bad"


def _first(most: int, holds: Callable[[int], bool]) -> int | None:
    """The first number from 1 to ``most`` that holds, where all after it do; None: none does."""
    low, high = 1, most + 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low if low <= most else None
