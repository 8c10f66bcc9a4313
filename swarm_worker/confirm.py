"""Confirm one finalist: what users would get from it and from the champion, item by item, on items the search never saw.

The gate decides on generated answers where feedback says what was right (a correction, or an answer rated up): exact match.
Without enough of those, or where even the champion does not repeat the answers that were rated up (free text, sampled), it
decides on the ``preference`` of the likelihoods; 0.5 then stands for the champion itself.

An answer rated down, and not corrected, is a failure of the champion of which nobody said what was right, so exact match cannot
be asked of it. Left out alone, it would flatter the champion: of its right answers all would count, of its wrong ones a part.
So as large a part of the right ones is taken. Measured on the starter pack, where half of what was wrong was corrected:
see the gate's power in docs/results.md.

Who corrects has looked closely; a thumb alone is often wrong, and an answer accepted by mistake is one that only the champion
can repeat. So both kinds are taken of the same raters, those who accept and correct, as long as they say enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from registry.records import SnapshotItem
from swarm_worker.gate import MIN_ITEMS
from swarm_worker.scoring.engine import Scored, ScoringEngine
from swarm_worker.utilities import UTILITIES, Item, measure, reference_of

REPEATED = 0.5
"""Share of the answers rated up that the champion must give again, word for word, for exact match to mean anything."""


def rated(item: SnapshotItem) -> Item:
    """A snapshot's item as a utility takes it."""
    return Item.from_json(item.model_dump(mode="json"))


def confirm(
    engine: ScoringEngine, champion: Scored, finalist: Scored, items: Sequence[SnapshotItem], *, max_tokens: int
) -> dict[str, Any]:
    """Per-item scores of the champion (``before``) and the finalist (``after``), paired, and how they were measured.

    ``corrected`` and ``accepted`` count the checkable items whose good answer was a correction, and those where the answer
    given was right, as far as they count (``representative``). Where all are corrections, the items were chosen by the
    champion's failures and any change looks better; the gate does not decide then (``GatePolicy.min_accepted``).
    """
    checkable = representative(items)
    corrected = sum(item.bad is not None for item in checkable)
    counts = {"corrected": corrected, "accepted": len(checkable) - corrected}
    if len(checkable) >= MIN_ITEMS:
        exact = _measured("exact_match", engine, champion, finalist, [rated(item) for item in checkable], max_tokens)
        again = [score for item, score in zip(checkable, exact["before"], strict=True) if item.bad is None]
        if not again or sum(again) >= REPEATED * len(again):
            return exact | counts
    return _measured("preference", engine, champion, finalist, [rated(item) for item in items], max_tokens) | counts


def representative(items: Sequence[SnapshotItem]) -> list[SnapshotItem]:
    """The items that exact match may decide on: corrected and accepted answers, in the proportion of wrong and right ones.

    Those of raters who do both, as long as they are enough to decide; else those of all.
    """
    found = _in_proportion([item for item in items if item.two_sided])
    accepted = sum(item.bad is None for item in found)
    return found if min(accepted, len(found) - accepted) >= MIN_ITEMS else _in_proportion(items)


def _in_proportion(items: Sequence[SnapshotItem]) -> list[SnapshotItem]:
    """Which of the accepted are taken follows from their digests."""
    corrected = {item.digest for item in items if item.checkable and item.good is not None and item.bad is not None}
    accepted = sorted(item.digest for item in items if item.checkable and item.good is not None and item.bad is None)
    faulted = sum(item.good is None for item in items)  # and nobody said what was right
    wrong = len(corrected) + faulted
    taken = corrected | set(accepted[: len(accepted) * len(corrected) // wrong] if wrong else accepted)
    return [item for item in items if item.digest in taken]


def _measured(
    name: str, engine: ScoringEngine, champion: Scored, finalist: Scored, items: list[Item], max_tokens: int
) -> dict[str, Any]:
    utility = UTILITIES[name]
    reference = reference_of(utility, engine, champion, items)
    before, after = measure(utility, engine, [champion, finalist], items, reference)
    return {"measure": name, "before": list(before.values), "after": list(after.values)}
