"""Search and confirm: two halves of a snapshot's items between which nothing leaks. Pure.

What belongs together falls on one side: items of one conversation, of one identified rater, prompts that say nearly the
same, and whatever these join up. 'anonymous' joins nothing. Which side a group belongs to follows from a hash of its raters'
names (else its conversations', else its prompts') and the seed, so that later feedback rarely moves it across. Where that
leaves one side short, groups are moved until each has two fifths of the items, or as many as the search may have.

Where a few raters gave most, so that no such split is sound, it is by conversation alone, and where that cannot be either, by
prompt: ``Halves.by`` tells.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal

from registry.canonical import canonical
from registry.components import components
from registry.records import ANONYMOUS
from registry.snapshot_items import Drafted, most_of_one

By = Literal["rater", "conversation", "prompt"]
LEVELS: tuple[By, ...] = ("rater", "conversation", "prompt")
"""The strictest first."""

Place = tuple[int, str]
Related = Sequence[Sequence[str]]
_Group = list[Drafted]
_Half = tuple[Drafted, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """The most items of each half."""

    search: int
    confirm: int


@dataclass(frozen=True, slots=True)
class Halves:
    """Both halves in the order that the seed draws. ``sound``: each has its share, and none is mostly one group."""

    search: _Half
    confirm: _Half
    by: By
    sound: bool

    def __len__(self) -> int:
        return len(self.search) + len(self.confirm)

    def fair(self, share: float) -> bool:
        """Whether no rater decides more than ``share`` of all items, or than an equal part where raters are few; nor more of
        either half, but for what chance adds to a half that is drawn."""
        return most_of_one(self._all) <= _part(self._all, share) + 1e-9 and all(
            most_of_one(half) <= _by_chance(half, share) for half in (self.search, self.confirm)
        )

    def allowed(self, share: float) -> int:
        """The most items that a rater may have of these: a looser cap than this cannot be fair."""
        halves = [_by_chance(half, share) for half in (self.search, self.confirm)]
        return int(min(_part(self._all, share), max(halves) if self.by == "rater" else sum(halves)) + 1e-9)

    @property
    def _all(self) -> _Half:
        return (*self.search, *self.confirm)


@lru_cache(maxsize=20_000)  # one snapshot is split several times
def draw(kind: str, name: str, seed: int) -> Place:
    """A number that looks random and follows from the name and the seed; the name breaks a tie."""
    return int.from_bytes(hashlib.sha256(canonical({kind: name, "seed": seed})).digest()[:8], "big"), name


def split(drafts: Sequence[Drafted], by: By, related: Related, *, seed: int, limits: Limits) -> Halves:
    """The halves of ``drafts``; groups go whole to one side, but for what is over a limit, which goes to none.

    ``related``: groups of prompts, by digest, that belong together for what they say. ``by`` prompt: nothing does.
    """
    groups = sorted(_groups(drafts, by, related), key=lambda group: _place(group, by, seed))
    n = len(drafts)
    fewest, most = min(limits.search, 2 * n // 5), min(limits.search, 3 * n // 5)
    chosen = _searched(groups, [_place(group, by, seed)[0] % 2 == 0 for group in groups], fewest, most)
    searched = [group for number, group in enumerate(groups) if number in chosen]
    others = [group for number, group in enumerate(groups) if number not in chosen]
    search, confirm = _drawn(searched, seed, most), _drawn(others, seed, limits.confirm)
    enough = len(search) >= min(limits.search, n // 3) and len(confirm) >= min(
        limits.search, limits.confirm, 2 * n // 5
    )
    mixed = by == "prompt" or not (_mostly_one(search, searched) or _mostly_one(confirm, others))
    return Halves(search, confirm, by, sound=enough and mixed)


def owners(draft: Drafted, by: By) -> set[tuple[str, str]]:
    """Whom an item belongs to, as (kind, name): items that share one of these fall on one side."""
    if by == "prompt":
        return set()
    found = {("conversation", one.conversation) for one in draft.deciding if one.conversation}
    return found | {("rater", name) for name in draft.raters} if by == "rater" else found


def _searched(groups: Sequence[_Group], drawn: Sequence[bool], fewest: int, most: int) -> set[int]:
    """The numbers of the groups to search on: those drawn that fit, then others, until there are enough.

    If even so there are too few, every group left is too big: the smallest that leaves enough to confirm is taken and cut.
    """
    chosen: set[int] = set()
    filled = 0
    order = [number for number, one in enumerate(drawn) if one] + [
        number for number, one in enumerate(drawn) if not one
    ]
    for number in order:
        wanted = most if drawn[number] else fewest
        if filled < wanted and filled + len(groups[number]) <= most:
            chosen.add(number)
            filled += len(groups[number])
    left = sum(len(group) for group in groups) - filled
    too_big = [number for number in order if number not in chosen and left - len(groups[number]) >= fewest]
    if filled < fewest and too_big:
        chosen.add(min(too_big, key=lambda number: len(groups[number])))
    return chosen


def _groups(drafts: Sequence[Drafted], by: By, related: Related) -> list[_Group]:
    joined = components(len(drafts), _links(drafts, by, related))
    return [[drafts[place] for place in places] for places in joined]


def _links(drafts: Sequence[Drafted], by: By, related: Related) -> Iterator[tuple[int, int]]:
    if by == "prompt":
        return
    first: dict[tuple[str, str], int] = {}
    for place, draft in enumerate(drafts):
        for owner in owners(draft, by):
            yield first.setdefault(owner, place), place
    places = {draft.item.digest: place for place, draft in enumerate(drafts)}
    for group in related:
        yield from pairwise(places[name] for name in group if name in places)


def _place(group: _Group, by: By, seed: int) -> Place:
    names = {owner for draft in group for owner in owners(draft, by)}
    raters = {owner for owner in names if owner[0] == "rater"}
    prompts = {("item", draft.item.digest) for draft in group}
    return min(draw(kind, name, seed) for kind, name in raters or names or prompts)


def _drawn(groups: Iterable[_Group], seed: int, most: int) -> _Half:
    drafts = [draft for group in groups for draft in group]
    return tuple(sorted(drafts, key=lambda draft: draw("item", draft.item.digest, seed))[:most])


def _mostly_one(half: _Half, groups: Iterable[_Group]) -> bool:
    """Whether more than half of it is one group: then it speaks for that, and not for all who ask."""
    kept = {draft.item.digest for draft in half}
    return any(2 * sum(draft.item.digest in kept for draft in group) > len(half) for group in groups if len(group) > 1)


def _part(half: _Half, share: float) -> float:
    return max(share, 1 / max(1, _voices(half))) * len(half)


def _by_chance(half: _Half, share: float) -> float:
    """A part and a standard deviation more, as of a count that is drawn."""
    return min(float(len(half)), _part(half, share) + math.sqrt(_part(half, share)))


def _voices(half: _Half) -> int:
    """How many raters speak in it; of those who did not say who they are, each item is one."""
    named = {rater for draft in half for rater in draft.raters}
    return len(named) + sum(any(one.rater == ANONYMOUS for one in draft.deciding) for draft in half)
