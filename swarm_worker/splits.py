"""Search, confirm, test: lists that share no item, so that no number is measured on what it was chosen by.

The best of some hundred noisy scores flatters itself: at 200 items by about ten points (`research/model_swarms.md`, section
3.8). So one finalist is measured again on ``confirm``, and claims are made on ``test``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from swarm_worker.datasets import question_text
from swarm_worker.utilities.utility import Item

By = Literal["item", "question"]
NAMES = ("search", "confirm", "test")


class LeakedItems(ValueError):
    """Lists that must not share an item do. ``leaked``: content hash -> the names of the lists it is in; the message shows the
    first questions."""

    def __init__(self, leaked: Mapping[str, Sequence[str]], questions: Sequence[str]) -> None:
        self.leaked = {key: tuple(names) for key, names in leaked.items()}
        shown = "; ".join(
            f"{' and '.join(names)}: {question[:100]!r} ({key[:12]})"
            for (key, names), question in list(zip(self.leaked.items(), questions, strict=True))[:5]
        )
        super().__init__(f"{len(self.leaked)} items are in more than one list: {shown}")


@dataclass(frozen=True, slots=True)
class Splits:
    """Disjoint by content. Raises ``LeakedItems`` where they are not."""

    search: tuple[Item, ...]
    confirm: tuple[Item, ...] = ()
    test: tuple[Item, ...] = ()
    by: By = "item"

    def __post_init__(self) -> None:
        check_disjoint({name: getattr(self, name) for name in NAMES}, by=self.by)


def content_hash(item: Item, by: By = "item") -> str:
    """What makes two items the same: question and right (else known wrong) answer in words, or the question alone; doubled
    blanks, labels, wrong options and tasks aside."""
    if by not in get_args(By):
        raise ValueError(f"by must be one of {', '.join(get_args(By))}, not {by!r}")
    content = [question_text(item)]
    if by == "item":
        answer = item.bad if item.good is None else item.right_text
        content.append(" ".join((answer or "").split()))
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def check_disjoint(lists: Mapping[str, Sequence[Item]], by: By = "item") -> None:
    """Raises ``LeakedItems`` if any item is in more than one of these lists, by their names."""
    owners: dict[str, list[str]] = {}
    questions: dict[str, str] = {}
    for name, items in lists.items():
        for item in items:
            key = content_hash(item, by)
            questions[key] = question_text(item)
            if name not in owners.setdefault(key, []):
                owners[key].append(name)
    leaked = {key: names for key, names in owners.items() if len(names) > 1}
    if leaked:
        raise LeakedItems(leaked, [questions[key] for key in leaked])


def split(
    items: Sequence[Item],
    *,
    search: int,
    confirm: int = 0,
    test: int = 0,
    seed: int = 0,
    by: By = "item",
) -> Splits:
    """So many items of each, drawn from one pool.

    The same items (by content), sizes and seed give the same splits, in whatever order the pool comes; of equal items only one
    is drawn, and with ``by="question"`` only one of those that ask the same. Raises ``ValueError`` where the pool is too small.
    """
    sizes = {"search": search, "confirm": confirm, "test": test}
    for name, size in sizes.items():
        if size < (name == "search"):
            raise ValueError(f"{name} must be {int(name == 'search')} or more items, not {size!r}")
    drawn = _shuffled(items, seed, by)
    if sum(sizes.values()) > len(drawn):
        wanted = ", ".join(f"{size} to {name}" for name, size in sizes.items())
        raise ValueError(f"{len(drawn)} different items ({len(items)} in the pool) are too few for {wanted}")
    ends = (search, search + confirm, search + confirm + test)
    return Splits(tuple(drawn[: ends[0]]), tuple(drawn[ends[0] : ends[1]]), tuple(drawn[ends[1] : ends[2]]), by)


def select_and_gate(
    confirm: Sequence[Item], *, select: int | None = None, seed: int = 0, by: By = "item"
) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """Confirm in two, for several finalists: what chooses one of them, and what the chosen one is then measured on.

    ``select``: how many items choose; half of them where not given. Raises ``ValueError`` where either part would be empty.
    """
    drawn = _shuffled(confirm, seed, by)
    chosen = len(drawn) // 2 if select is None else select
    if not 0 < chosen < len(drawn):
        raise ValueError(f"select must leave items on both sides: {chosen!r} of {len(drawn)} different confirm items")
    return tuple(drawn[:chosen]), tuple(drawn[chosen:])


def _shuffled(items: Sequence[Item], seed: int, by: By) -> list[Item]:
    """Different items, in an order that depends on their content and the seed only."""
    different: dict[str, Item] = {}
    for item in sorted(items, key=lambda item: item.digest):
        different.setdefault(content_hash(item, by), item)
    return [
        different[key] for key in sorted(different, key=lambda key: hashlib.sha256(f"{seed}/{key}".encode()).digest())
    ]
