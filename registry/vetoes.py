"""Who contradicts too much to be heard on what is contradicted. Pure.

Two raters who contradict each other say nothing, so the prompt makes no item. One rater alone could silence everybody so: no cap
on items holds who has none. So whoever is in the way of more prompts than a rater may decide (the share of
``SnapshotFilter.max_rater_share``, or an equal part where raters are few) is not heard on those, the worst first; where two are
in the way of equally many nobody knows which of them it is, and they say nothing, as ever.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from registry.records import ANONYMOUS, Feedback
from registry.snapshot_items import drafted

Said = Mapping[str, list[Feedback]]


def heard(said: Said, share: float) -> dict[str, list[Feedback]]:
    """``said``, by prompt, without the vetoes of whoever has too many."""
    raters = {one.rater for ones in said.values() for one in ones}
    most = max(share, 1 / max(1, len(raters))) * len(said)
    vetoed = {name: ones for name, ones in said.items() if drafted(name, ones) is None}
    while loud := _loudest(Counter(rater for name, ones in vetoed.items() for rater in _vetoes(name, ones)), most):
        vetoed = {name: _without(loud, ones) if loud in _vetoes(name, ones) else ones for name, ones in vetoed.items()}
    return {**said, **vetoed}


def _vetoes(name: str, ones: list[Feedback]) -> Iterator[str]:
    """The raters without whom the prompt would be an item."""
    for rater in sorted({one.rater for one in ones} - {ANONYMOUS}):
        if drafted(name, ones) is None and drafted(name, _without(rater, ones)) is not None:
            yield rater


def _without(rater: str, ones: list[Feedback]) -> list[Feedback]:
    return [one for one in ones if one.rater != rater]


def _loudest(vetoes: Counter[str], most: float) -> str | None:
    first, second = [*vetoes.most_common(2), ("", 0), ("", 0)][:2]
    return first[0] if first[1] > max(most, second[1]) else None
