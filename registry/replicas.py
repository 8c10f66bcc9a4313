"""Service processes that are alive, what they hold, and what they are asked to get ready. By Redis's clock."""

from __future__ import annotations

from dataclasses import dataclass

from registry.connection import RegistryRedis
from registry.keys import Keys
from registry.lua import script
from registry.records import Replica

_REPLICAS, _WANTED = "replicas", "wanted"
SILENT_SECONDS = 5.0
"""How long a move waits for a replica whose record has ended, from when that is first seen: after an outage of Redis none has
said that it is alive, and all are about to. One that was killed holds a move up for no longer."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """How far the live replicas are with a version: ids that hold it, that do not yet, that could not (and why).

    ``waiting`` names those as well that have just fallen silent and did not hold it. ``asked``: the number of the wish that
    this answers."""

    ready: list[str]
    waiting: list[str]
    refused: dict[str, str]
    asked: int = 0

    @property
    def complete(self) -> bool:
        """Every replica that counts holds it; true as well when there is none: nobody to ask."""
        return not self.waiting and not self.refused


class Replicas:
    """Each replica writes its own record, which ends by itself; anybody may ask for a version."""

    def __init__(self, client: RegistryRedis, keys: Keys) -> None:
        self._hold, self._held, self._ask = script(client, "hold"), script(client, "held"), script(client, "ask")
        self._alive = script(client, "alive")
        self._tables = {table: [keys.until(table), keys.records(table)] for table in (_REPLICAS, _WANTED)}
        self._wishes = [*self._tables[_WANTED], keys.asked]
        self._heartbeats = [*self._tables[_REPLICAS], keys.silent]

    def beat(self, replica: Replica, ttl: float = 5.0) -> None:
        """Says that the replica is alive for ``ttl`` seconds more, and what it holds."""
        self._hold(keys=self._tables[_REPLICAS], args=[replica.id, ttl, replica.model_dump_json()])

    def gone(self, replica_id: str) -> None:
        """Takes the record away at once: an orderly stop."""
        self._hold(keys=self._tables[_REPLICAS], args=[replica_id, 0, ""])

    def live(self) -> list[Replica]:
        """Those whose record has not ended, by id. One round trip."""
        return self._heard()[0]

    def _heard(self) -> tuple[list[Replica], list[Replica]]:
        """Those whose record has not ended, and those of which it has lately; both by id."""
        told = self._alive(keys=self._heartbeats, args=[SILENT_SECONDS])
        heard: tuple[list[Replica], list[Replica]] = ([], [])
        for record, ended in zip(told[::2], told[1::2], strict=True):
            heard[int(ended)].append(Replica.model_validate_json(record))
        for replicas in heard:
            replicas.sort(key=lambda replica: replica.id)
        return heard

    def ask(self, adapter: str, version: int, ttl: float = 120.0) -> int:
        """Please get this version ready: every replica reads it in ``wishes`` for ``ttl`` seconds.

        Answers the wish's number: a replica that refused an earlier wish tries again for a later one."""
        return int(self._ask(keys=self._wishes, args=[f"{adapter}@{version}", ttl, 0]))

    def getting_ready(self, adapter: str, version: int, ttl: float = 15.0) -> Readiness:
        """How far the live replicas are with a wish that is made once and kept up: for who comes back rather than waits. A
        refusal of an earlier wish does not count. ``withdraw`` it when the move is made or given up."""
        asked = int(self._ask(keys=self._wishes, args=[f"{adapter}@{version}", ttl, 1]))
        return self.readiness(adapter, version, asked)

    def withdraw(self, adapter: str, version: int, asked: int) -> None:
        """The wish of this number was made for a move that is over. One that somebody made since stays."""
        self._hold(keys=self._tables[_WANTED], args=[f"{adapter}@{version}", 0, asked])

    def wanted(self) -> list[tuple[str, int]]:
        """The (adapter, version) pairs that were asked for, soonest to end first. One round trip."""
        return [(adapter, version) for adapter, version, _ in self.wishes()]

    def wishes(self) -> list[tuple[str, int, int]]:
        """As ``wanted``, each with the number of its last wish."""
        held = self._held(keys=self._tables[_WANTED])
        named = ((name.rpartition("@"), number) for name, number in zip(held[::2], held[1::2], strict=True))
        return [(adapter, int(version), int(number or 0)) for (adapter, _, version), number in named]

    def readiness(self, adapter: str, version: int, asked: int = 0) -> Readiness:
        """How far the live replicas are. A replica that holds it counts as ready, whatever it refused before; a refusal
        counts where it answers wish ``asked`` or a later one. One that has just fallen silent is waited for, unless it held
        the version when it was last heard of: a way back stays quick while a replica is being replaced."""
        name = f"{adapter}@{version}"
        live, silent = self._heard()
        refused = {
            replica.id: replica.refused[name]
            for replica in live
            if name in replica.refused and replica.heard.get(name, asked) >= asked
        }
        ready = [replica.id for replica in live if name in replica.holds]
        waiting = [replica.id for replica in live if replica.id not in ready and replica.id not in refused]
        waiting += [replica.id for replica in silent if name not in replica.holds]
        refused = {replica: why for replica, why in refused.items() if replica not in ready}
        return Readiness(ready, waiting, refused, asked)
