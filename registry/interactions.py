"""Answers and the versions that gave them, kept for some days so that feedback can name a request id."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from registry.connection import RegistryRedis
from registry.errors import InteractionUnknown
from registry.keys import Keys
from registry.lua import script
from registry.records import Interaction

_DAY = 24 * 3600
_BOUND = {"adapter", "version", "messages", "prompt", "answer", "sampling", "conversation"}
"""What feedback by a request id takes over from the record (``registry.feedback.join``)."""


class Interactions:
    """A record a request, gone after its time. Ids come from callers, too, so that one may be used for several answers: the
    first keeps its record, which says from the second on that it is ``ambiguous``."""

    def __init__(self, client: RegistryRedis, keys: Keys, days: int) -> None:
        self._redis = client
        self._keys = keys
        self._seconds = days * _DAY
        self._mark = script(client, "mark_interaction")

    def add_many(
        self, interactions: Sequence[Interaction], seconds: Sequence[float] | None = None
    ) -> list[Interaction]:
        """Records them in one round trip; each by itself, there is no order between them. ``seconds``: how long each is
        kept; left out: the days that the settings say.

        Those that are not kept are answered: their ids were taken by other answers, whose records are marked, which takes
        more round trips. Repeated, it answers the same. What says the same as the record under its id is kept already.
        """
        times = seconds if seconds is not None else [self._seconds] * len(interactions)
        waiting = list(zip(interactions, times, strict=True))
        not_kept: list[Interaction] = []
        while waiting := self._refused(waiting):
            held = self._held([one.request_id for one, _ in waiting])
            not_kept += [one for one, _ in waiting if one.request_id in held and self._differs(one, held)]
            # A record that has ended meanwhile leaves its id free.
            waiting = [(one, time) for one, time in waiting if one.request_id not in held]
        return not_kept

    def _refused(self, interactions: Sequence[tuple[Interaction, float]]) -> list[tuple[Interaction, float]]:
        """Records those whose id is free; the others."""
        if not interactions:
            return []
        with self._redis.pipeline(transaction=False) as pipe:
            for one, time in interactions:
                place = self._keys.interaction(one.request_id)
                pipe.set(place, one.model_dump_json(), px=max(1, int(time * 1000)), nx=True)
            kept = pipe.execute()
        return [named for named, new in zip(interactions, kept, strict=True) if not new]

    def _differs(self, interaction: Interaction, held: dict[str, str]) -> bool:
        """Whether the record under its id is of another answer: then that is marked, and stays for as long as it would have."""
        record = held[interaction.request_id]
        there = Interaction.model_validate_json(record)
        if _bound(there) == _bound(Interaction.model_validate_json(interaction.model_dump_json())):
            return False
        if not there.ambiguous:
            marked = there.model_copy(update={"ambiguous": True}).model_dump_json()
            self._mark(keys=[self._keys.interaction(interaction.request_id)], args=[record, marked])
            held[interaction.request_id] = marked
        return True

    def get(self, request_id: str) -> Interaction:
        """The record of a request, or ``InteractionUnknown``: never recorded, or too old."""
        found = self.get_many([request_id])
        if request_id not in found:
            raise InteractionUnknown(request_id)
        return found[request_id]

    def get_many(self, request_ids: Collection[str]) -> dict[str, Interaction]:
        """The records of those requests that have one, in one round trip."""
        held = self._held(request_ids)
        return {name: Interaction.model_validate_json(record) for name, record in held.items()}

    def _held(self, request_ids: Collection[str]) -> dict[str, str]:
        wanted = list(request_ids)
        if not wanted:
            return {}
        with self._redis.pipeline(transaction=False) as pipe:
            for request_id in wanted:
                pipe.get(self._keys.interaction(request_id))
            records = pipe.execute()
        return {name: record for name, record in zip(wanted, records, strict=True) if record is not None}


def _bound(interaction: Interaction) -> dict[str, Any]:
    return interaction.model_dump(include=_BOUND)
