"""Which version answers a request: the model id it names, the rollout, and who is asking. Pure.

====================================  ====================================================
``support-bot``                       the rollout decides: champion, or challenger for its share
``support-bot@7``                     version 7
``support-bot@champion``              whoever is champion now (``@challenger``: on trial now)
``base``                              the base model, no adapter
====================================  ====================================================
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from typing import Literal

from registry.records import ADAPTER_NAME, Rollout

Selector = Literal["rollout", "champion", "challenger"]


@dataclass(frozen=True, slots=True)
class ModelId:
    """What a request's ``model`` means: an adapter, and either a version or how to choose one."""

    adapter: str
    version: int | None = None
    selector: Selector = "rollout"


def parse(model: str) -> ModelId | None:
    """Read a model id; None where it cannot name an adapter or a version."""
    name, at, rest = model.partition("@")
    if not ADAPTER_NAME.fullmatch(name):
        return None
    if not at:
        return ModelId(name)
    if rest == "champion":
        return ModelId(name, selector="champion")
    if rest == "challenger":
        return ModelId(name, selector="challenger")
    if rest.isascii() and rest.isdigit() and not rest.startswith("0") and len(rest) < 10:
        return ModelId(name, version=int(rest))
    return None


def choose(rollout: Rollout, selector: Selector, session: str | None) -> int | None:
    """The version that answers; None where nobody has that place.

    The same session stays on its side while the share stands, and only ever moves towards the challenger while the share
    grows. Without a session every request draws anew.
    """
    if selector == "challenger":
        return rollout.challenger
    if selector == "champion" or rollout.challenger is None:
        return rollout.champion
    return rollout.challenger if place(rollout, session) < rollout.challenger_share else rollout.champion


def place(rollout: Rollout, session: str | None) -> float:
    """Where a session stands in [0, 1): fixed by its name, the adapter and the version on trial."""
    if session is None:
        return random.random()
    named = f"{rollout.adapter}\0{rollout.challenger}\0{session}".encode()
    return int.from_bytes(hashlib.sha256(named).digest()[:8], "big") / 2**64
