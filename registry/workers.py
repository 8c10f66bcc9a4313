"""Workers that are alive and what each is doing. Records that end by themselves, by Redis's clock."""

from __future__ import annotations

from typing import Any

from registry.connection import RegistryRedis
from registry.keys import Keys
from registry.lua import script
from registry.records import Worker

TTL_SECONDS = 10.0
"""How long a worker that fell silent is still listed."""


class Workers:
    """Each worker writes its own record, again and again; one that is killed is gone when its record ends."""

    def __init__(self, client: RegistryRedis, keys: Keys) -> None:
        self._table = [keys.until("workers"), keys.records("workers")]
        self._client, self._ticked = client, keys.ticked
        self._hold, self._held = script(client, "hold"), script(client, "held")
        self._tick = script(client, "tick")

    def beat(self, worker: Worker, ttl: float = TTL_SECONDS) -> None:
        """Says that the worker is alive for ``ttl`` seconds more, and what it does."""
        self._hold(keys=self._table, args=[worker.id, ttl, worker.model_dump_json()])

    def gone(self, worker_id: str) -> None:
        """Takes the record away at once: an orderly stop."""
        self._hold(keys=self._table, args=[worker_id, 0, ""])

    def ticks(self, apart: float) -> bool:
        """Whether a tick may begin: none did within ``apart`` seconds. If so, it has begun."""
        return bool(self._tick(keys=[self._ticked], args=[apart]))

    def ticked_at(self) -> float | None:
        """When the latest tick began, in seconds since 1970; None: none ever did."""
        told: Any = self._client.get(self._ticked)
        return float(told) if told else None

    def live(self, kind: str | None = None) -> list[Worker]:
        """Those whose record has not ended, by kind and age. One round trip."""
        records = self._held(keys=self._table)[1::2]
        workers = [Worker.model_validate_json(record) for record in records]
        return sorted(
            (worker for worker in workers if kind in (None, worker.kind)),
            key=lambda worker: (worker.kind, worker.since, worker.id),
        )
