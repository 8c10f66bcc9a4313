"""Where adapters, versions, rollouts and their history are kept: the protocol, and what every store guarantees."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple, Protocol

from registry.policy import Policy
from registry.records import Adapter, Event, Record, Rollout, Version


class Answered(Record):
    """What an operation id was answered, and to which move in words; "" in answers of before moves were told apart."""

    asked: str = ""
    rollout: Rollout


class Reached(NamedTuple):
    """How far an adapter is: its rollout's revision and its highest version number. Both only grow."""

    revision: int
    versions: int

    def or_further(self, other: Reached) -> Reached:
        """The further of both, number by number."""
        return Reached(max(self.revision, other.revision), max(self.versions, other.versions))


class Seen(NamedTuple):
    """What a mover sees at one moment: the rollout, what its operation id was answered (if it was), the policy."""

    rollout: Rollout
    answered: Answered | None
    policy: Policy


class Store(Protocol):
    """Adapters, versions, rollouts, history.

    Every implementation guarantees, and ``tests/contract/test_store.py`` checks:

    - a version never changes once it is added, except that it can be retired; its number is never used again;
    - a digest has at most one version under an adapter;
    - a rollout moves only from the revision that the caller saw (``after.revision - 1``);
    - a rollout never moves to a champion, challenger or newly pinned version that is unknown or retired;
    - every change leaves exactly one event, in the same atomic step, and a refused change leaves none;
    - an operation id is answered as it was the first time, for at least 30 days.

    A store decides nothing else: what a move means is in ``registry/rollout.py``, ids and times come from the caller.
    """

    def ping(self) -> None:
        """Answers, or raises ``RegistryDown``."""

    def create(self, rollout: Rollout, event: Event) -> bool:
        """Adds an adapter with its first rollout. False, and no event: it exists already."""

    def adapters(self, limit: int | None = None, after: str = "") -> list[Adapter]:
        """Up to ``limit`` adapters (None: all), by name, behind the name ``after``."""

    def adapter(self, name: str) -> Adapter:
        """One adapter, or ``AdapterUnknown``."""

    def reached(self) -> dict[str, Reached]:
        """How far every adapter is, in one cheap round trip."""

    def moves_made(self) -> int:
        """How many creations and moves there were: another number after each, counted with it. As cheap as a question can be."""

    def add_version(self, version: Version, event: Event) -> tuple[Version, bool] | None:
        """Adds ``version`` if its number is the next one.

        Answers the version and True; or the version that has the digest already and False; or None when the number
        was taken meanwhile: the caller takes the next. ``AdapterUnknown``.
        """

    def version(self, adapter: str, number: int) -> Version:
        """One version, or ``AdapterUnknown`` / ``VersionUnknown``."""

    def version_of(self, adapter: str, digest: str) -> Version | None:
        """The version with these bytes, if there is one. ``AdapterUnknown``."""

    def versions(self, adapter: str, limit: int | None = None, before: int | None = None) -> list[Version]:
        """Up to ``limit`` versions (None: all), newest first, below the number ``before``. ``AdapterUnknown``.

        What a page costs depends on the page, not on how many versions there are."""

    def newest(self, limit: int) -> dict[str, list[int]]:
        """Of every adapter the numbers of its newest ``limit`` versions, newest first, without those that are retired.

        One round trip for the adapters and one for every thousand of them; a second where versions were lost."""

    def rollout(self, adapter: str, operation_id: str = "") -> Seen:
        """The rollout and the policy as they are, and what ``operation_id`` was answered, if it was. ``AdapterUnknown``."""

    def policies(self) -> dict[str, Policy]:
        """The policy of every adapter for which one was set, in one round trip."""

    def move(
        self,
        after: Answered,
        event: Event,
        *,
        operation_id: str,
        pins: int | None = None,
        retires: int | None = None,
        policy: Policy | None = None,
    ) -> Answered:
        """Replaces the rollout of revision ``after.rollout.revision - 1``, and the policy where one is given.

        ``pins``, ``retires``: the version that is newly pinned, that is retired with the move. A repeated operation id is
        answered as the first time, before anything else is looked at; retiring what is retired already changes nothing.
        ``RolloutMoved``, ``AdapterUnknown``, ``VersionUnknown``, ``VersionRetired``: nothing was changed.
        """

    def move_at(self, adapter: str, at: datetime) -> Event | None:
        """The last move (or the creation) at or before ``at``. None: it lies before every move that tells what was live.
        ``AdapterUnknown``."""

    def history(self, adapter: str, limit: int, before: int | None) -> list[Event]:
        """Up to ``limit`` events, newest first, below the number ``before``. ``AdapterUnknown``."""

    def changes(self, timeout: float) -> Iterator[str | None]:
        """Names of adapters that changed, as hints: some may be lost. None whenever ``timeout`` seconds were silent.

        It never ends and never raises: a lost connection is made again, and looks like silence meanwhile.
        """
