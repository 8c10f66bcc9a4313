"""What keeps a registration and garbage collection apart: digests are announced before their bytes are put.

A collection condemns a digest before it deletes it. Redis decides which was first: what was announced within the grace
period, or since the collection read the records, cannot be condemned, and who announces a condemned digest waits until its
bytes are gone, then puts them again. So a record never names bytes that a collection is taking away.
"""

from __future__ import annotations

import math
import time
from typing import Any

from registry.connection import RegistryRedis
from registry.errors import Conflict
from registry.keys import Keys
from registry.lua import script

CONDEMNED_SECONDS = 60  # how long one deletion may take; a collector that died holds nobody up for longer


class Arrivals:
    """The digests on their way in, and those on their way out. By Redis's clock."""

    def __init__(self, client: RegistryRedis, keys: Keys) -> None:
        self._redis = client
        self._announce = script(client, "artifact_announce")
        self._condemn = script(client, "artifact_condemn")
        self._tables = [keys.artifacts("arriving"), keys.artifacts("condemned")]

    def announce(self, digest: str) -> None:
        """From here on the digest is left alone for the grace period. Waits while it is being deleted."""
        until = time.monotonic() + CONDEMNED_SECONDS + 10
        while self._announce(keys=self._tables, args=[digest])[0] == "condemned":
            if time.monotonic() > until:
                raise Conflict(f"Garbage collection has been deleting {digest} for too long. Try again.", digest=digest)
            time.sleep(0.05)

    def since(self, grace: float) -> int:
        """The second that was ``grace`` seconds ago. Ask before the records are read: what is announced after that may be
        registered without being among them, however long the collection takes to come to it."""
        seconds: Any = self._redis.time()
        return int(seconds[0]) - math.ceil(grace)

    def condemn(self, digest: str, since: int) -> bool:
        """Whether the digest may be deleted now; False: it was announced at ``since`` or later."""
        answer = self._condemn(keys=self._tables, args=[digest, since, CONDEMNED_SECONDS])
        return str(answer[0]) == "condemned"

    def announced(self, digest: str, since: int) -> bool:
        """Whether it was announced at ``since`` or later."""
        at: Any = self._redis.zscore(self._tables[0], digest)
        return at is not None and float(at) >= since

    def tidy(self, since: int) -> None:
        """Forgets announcements from before ``since``."""
        self._redis.zremrangebyscore(self._tables[0], "-inf", f"({since}")

    def pardon(self, digest: str) -> None:
        """The deletion is over: who waits may put the bytes again."""
        self._condemn(keys=self._tables, args=[digest, 0, 0])
