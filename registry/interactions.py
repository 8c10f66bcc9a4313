"""Answers and the versions that gave them, kept for some days so that feedback can name a request id."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from registry.connection import RegistryRedis
from registry.errors import InteractionUnknown
from registry.keys import Keys
from registry.records import Interaction

_DAY = 24 * 3600


class Interactions:
    """A record a request, gone after its time. An id that is taken keeps its first record: ids come from callers, too."""

    def __init__(self, client: RegistryRedis, keys: Keys, days: int) -> None:
        self._redis = client
        self._keys = keys
        self._seconds = days * _DAY

    def add_many(self, interactions: Sequence[Interaction], seconds: Sequence[float] | None = None) -> None:
        """Records them in one round trip; each by itself, there is no order between them. ``seconds``: how long each is
        kept; left out: the days that the settings say."""
        if not interactions:
            return
        kept = seconds if seconds is not None else [self._seconds] * len(interactions)
        with self._redis.pipeline(transaction=False) as pipe:
            for interaction, time in zip(interactions, kept, strict=True):
                place = self._keys.interaction(interaction.request_id)
                pipe.set(place, interaction.model_dump_json(), px=max(1, int(time * 1000)), nx=True)
            pipe.execute()

    def get(self, request_id: str) -> Interaction:
        """The record of a request, or ``InteractionUnknown``: never recorded, or too old."""
        found = self.get_many([request_id])
        if request_id not in found:
            raise InteractionUnknown(request_id)
        return found[request_id]

    def get_many(self, request_ids: Collection[str]) -> dict[str, Interaction]:
        """The records of those requests that have one, in one round trip."""
        wanted = list(request_ids)
        if not wanted:
            return {}
        with self._redis.pipeline(transaction=False) as pipe:
            for request_id in wanted:
                pipe.get(self._keys.interaction(request_id))
            records = pipe.execute()
        return {
            name: Interaction.model_validate_json(record)
            for name, record in zip(wanted, records, strict=True)
            if record is not None
        }
