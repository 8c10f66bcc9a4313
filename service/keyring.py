"""The keys of this replica: in memory, so that a request asks nobody; on disk, so that they count while Redis is gone.

What is kept is hashes. A revoked key stops opening anything within a poll, on every replica.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from contextlib import suppress
from pathlib import Path

from registry.api_keys import ApiKey, ApiKeys
from registry.errors import RecordNewer, RegistryDown
from registry.files import write_atomically

log = logging.getLogger("shoal.keys")


class Keyring:
    """Every key by its id, as of the last look. ``keep_up`` looks; one cheap question where nothing changed."""

    def __init__(self, keys: ApiKeys, path: Path, *, every: float) -> None:
        self._source = keys
        self._path = path
        self._every = every
        self._held: dict[str, ApiKey] = {}
        self._revision = -1
        self._looking = threading.Lock()

    def get(self, key_id: str) -> ApiKey | None:
        return self._held.get(key_id)

    async def start(self) -> None:
        """Read the keys that were known last, then those of now; with Redis gone, the former count."""
        self._restore()
        try:
            await asyncio.to_thread(self.look)
        except RegistryDown:
            log.warning("Redis is gone: %d keys count as they were last known", len(self._held))

    async def keep_up(self) -> None:
        """Look again and again, for as long as it is let."""
        while True:
            await asyncio.sleep(self._every)
            try:
                await asyncio.to_thread(self.look)
            except RegistryDown:
                continue  # the keys that are known go on counting; the replica says that Redis is gone
            except Exception:
                log.exception("the keys could not be read; those known last go on counting")

    def look(self) -> None:
        """Take in what changed; what stood when this was called counts when it returns. From any thread, one after another: a
        look that began earlier never overwrites what a later one read. ``RegistryDown``."""
        with self._looking:
            self._look()

    def _look(self) -> None:
        revision = self._source.revision()
        if revision == self._revision:
            return
        # A Redis that went back knows less: a key that was seen revoked stays so.
        gone = {key.id: key for key in self._held.values() if key.revoked_at is not None}
        keys, problems = self._source.read()
        for key_id, problem in problems.items():
            log.error("key %s opens nothing here: %s", key_id, problem)
        self._held = {key.id: key for key in keys} | gone
        told = [key.model_dump(mode="json") for key in self._held.values()]
        try:
            write_atomically(
                self._path, json.dumps(told).encode()
            )  # readable to this user alone, as any temporary file
        except OSError as error:  # the keys count all the same; at the next look it is tried again
            log.error("the keys could not be written to %s: %s", self._path, error)
        else:
            self._revision = revision

    def _restore(self) -> None:
        if self._path.exists():
            for value in json.loads(self._path.read_bytes()):
                with suppress(RecordNewer):  # written before this Shoal was set back to an older one
                    key = ApiKey.model_validate(value)
                    self._held[key.id] = key
