"""How much a key may ask: requests a second, and bytes a request. Counted by each replica for itself."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from registry.errors import TooMany

BURST_SECONDS = 2.0  # what a key may save up
MOST_KEYS = 10_000


class Rates:
    """A token bucket a key: ``rate`` tokens a second, up to two seconds' worth; a request takes one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._buckets: dict[str, tuple[float, float]] = {}  # key -> tokens left, and when that was
        self._clock = clock

    def take(self, key: str, rate: float) -> None:
        """One request; ``TooMany`` with the seconds after which the next one will do."""
        at = self._clock()
        most = max(1.0, rate * BURST_SECONDS)
        left, since = self._buckets.get(key, (most, at))
        left = min(most, left + (at - since) * rate)
        if left < 1.0:
            self._buckets[key] = (left, at)
            raise TooMany(math.ceil((1.0 - left) / rate))
        if len(self._buckets) >= MOST_KEYS:
            self._buckets.clear()  # keys are few; whoever has that many loses nothing but what was counted
        self._buckets[key] = (left - 1.0, at)
