"""What a finalist must show before it may answer users, as a frozen record. Pure; decided in ``swarm_worker/gate.py``."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class GatePolicy(BaseModel):
    """``level``: of the interval that must lie above 0, and of the promise over all looks at challengers of one champion.

    ``correction``: ``spending`` keeps that promise however often the loop looks; ``none`` tests each look as if it were the
    only one. See docs/adaptation.md.

    ``tolerance``: in score, 0 to 1. With 0 a finalist must be shown to be better. With more it must be shown to be worse by no
    more than that, and must not be shown to be worse at all: for a loop whose finds users try before they have them
    (``canary.automatic``), and which would lose more by what a gate refuses than by what a trial stops.

    ``min_accepted``: of the unseen items that exact match decides on, so many must be answers that users accepted. Where all
    are corrections the items were chosen by the champion's failures, and any change looks better.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    level: float = Field(default=0.95, ge=0.5, lt=1)
    correction: Literal["spending", "none"] = "spending"
    tolerance: float = Field(default=0.0, ge=0.0, le=1.0)
    min_accepted: int = Field(default=20, ge=0)
