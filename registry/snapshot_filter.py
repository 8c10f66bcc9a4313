"""Which feedback a snapshot is made of, as a frozen record. Pure; every field takes effect in ``registry/snapshots.py``."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, Field, model_validator

from registry.durations import Seconds
from registry.record import Record

FEWEST = 80
"""Fewest usable items for a run: half are searched on, and the gate does not decide on fewer than thirty unseen ones.

Caps and balancing give way only so far as it takes to keep so many."""

LONGEST = 365_000 * 86400.0
"""A thousand years: beyond them there are no times."""

Names = tuple[Annotated[str, Field(max_length=200)], ...]


class Chosen(Record):
    """Names to take and to leave out. ``include`` None: all; what is in both is left out."""

    include: Names | None = None
    exclude: Names = ()

    def takes(self, name: str) -> bool:
        return (self.include is None or name in self.include) and name not in self.exclude

    def takes_any(self, names: tuple[str, ...]) -> bool:
        """Of several names: none that is excluded and, where some are asked for, one of those."""
        wanted = self.include is None or not set(self.include).isdisjoint(names)
        return wanted and set(self.exclude).isdisjoint(names)


class SnapshotFilter(Record):
    """Which feedback counts, and how much of it.

    Time: from ``since``, before ``until``, and no older than ``last`` (seconds, or ``30d``) when the snapshot is frozen.
    ``versions``: what was said of these versions of the adapter; None: of all, and of none in particular. ``raters``,
    ``labels``: by name; feedback without labels is taken unless labels are asked for.

    ``max_rater_share``: the most of the items that one rater may decide, 1 for no limit; of a half it may be a little more, by
    chance. A fifth by default: below half, so that whoever floods cannot outvote the others, and low enough that a rater who is
    wrong in all of it moves the mean score of a position by about a fifth. Where there are fewer than five raters each may
    have an equal part, and a lone rater all. It gives way where fewer than ``FEWEST`` items would remain. ``max_per_rater``: as
    a count, which never gives way. 'anonymous' is nobody in particular: no cap holds it; leave it out with ``raters`` where
    that is a risk.

    ``balance``: ``good_bad`` takes as many items without a bad answer as with one, ``label`` as many of each label; both
    give way as the share does. ``near_duplicates``: ``drop`` keeps one of several prompts that say nearly the same
    (word-shingle Jaccard of at least ``near_duplicate_at``), ``keep`` all of them, in the same half.
    """

    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    last: Annotated[Seconds, Field(le=LONGEST)] | None = None
    versions: tuple[int, ...] | None = None
    raters: Chosen = Chosen()
    labels: Chosen = Chosen()
    max_rater_share: float = Field(default=0.2, gt=0, le=1)
    max_per_rater: int | None = Field(default=None, ge=1)
    balance: Literal["none", "good_bad", "label"] = "none"
    near_duplicates: Literal["drop", "keep"] = "drop"
    near_duplicate_at: float = Field(default=0.8, gt=0, le=1)

    @model_validator(mode="after")
    def _a_span_of_time(self) -> Self:
        if self.since and self.until and self.since >= self.until:
            raise ValueError(f"since ({self.since}) must be before until ({self.until})")
        return self

    def frozen(self, at: datetime) -> SnapshotFilter:
        """The same without ``last``: what it means at that moment, so that it means the same for ever."""
        if self.last is None:
            return self
        oldest = at - timedelta(seconds=self.last)
        since = oldest if self.since is None else max(oldest, self.since)
        return self.model_copy(update={"since": since, "last": None})
