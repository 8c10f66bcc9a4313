"""When a fall of the champion's live rating starts a run, as a frozen record. Pure; tested in ``swarm_worker/drop.py``."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class DropPolicy(BaseModel):
    """``by``: how far below its first ratings the champion's latest must be shown to be (a share: 0.05 is 5 points).
    ``ratings``: how many of each are compared, and how many new ones a further test waits for. ``level``: the confidence of one
    test; 0.99 alarms for nothing about once in a hundred tests, which costs one run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: float = Field(default=0.0, ge=0, lt=1)
    ratings: int = Field(default=100, ge=20, le=5000)
    level: float = Field(default=0.99, ge=0.5, lt=1)
