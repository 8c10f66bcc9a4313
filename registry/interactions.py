"""Answers and the versions that gave them, kept for some days so that feedback can name a request id."""

from __future__ import annotations

from collections.abc import Sequence

from registry.connection import RegistryRedis
from registry.errors import InteractionUnknown
from registry.keys import Keys
from registry.records import Interaction

_DAY = 24 * 3600


class Interactions:
    """A record a request, gone after ``days``. An id that is taken keeps its first record: ids come from callers, too."""

    def __init__(self, client: RegistryRedis, keys: Keys, days: int) -> None:
        self._redis = client
        self._keys = keys
        self._seconds = days * _DAY

    def add_many(self, interactions: Sequence[Interaction]) -> None:
        """Records them in one round trip; each by itself, there is no order between them."""
        if not interactions:
            return
        with self._redis.pipeline(transaction=False) as pipe:
            for interaction in interactions:
                place = self._keys.interaction(interaction.request_id)
                pipe.set(place, interaction.model_dump_json(), ex=self._seconds, nx=True)
            pipe.execute()

    def get(self, request_id: str) -> Interaction:
        """The record of a request, or ``InteractionUnknown``: never recorded, or too old."""
        record = self._redis.get(self._keys.interaction(request_id))
        if record is None:
            raise InteractionUnknown(request_id)
        return Interaction.model_validate_json(str(record))
