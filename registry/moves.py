"""The moves of a rollout over any store: read it, apply the rule, write it if nobody was faster."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Any

from registry import rollout as rules
from registry.errors import BadInput, RolloutMoved
from registry.records import Event, EventKind, Rollout, Version, now
from registry.store import Store

ATTEMPTS = 1000  # every lost race is somebody else's move, so this many in a row mean something is broken

_Rule = Callable[[Rollout, datetime], Rollout]


class Moves:
    """promote, roll_back, start_canary, end_canary, retire.

    Each is atomic and leaves one event. With ``expected_revision`` it happens only from that revision, else
    ``RolloutMoved``; without, it is decided again on the newest rollout until it wins. A repeated ``operation_id`` is
    answered with the rollout of the first time, whatever has happened since.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    def promote(
        self,
        adapter: str,
        version: int,
        *,
        by: str,
        reason: str = "",
        expected_revision: int | None = None,
        operation_id: str | None = None,
        by_itself: bool = False,
        details: dict[str, Any] | None = None,
    ) -> Rollout:
        """The champion moves forward to ``version``. ``by_itself``: no person asked, so a withdrawn version is refused.

        Whether the replicas can serve it is not asked here: see ``Registry.ready``.
        """
        return self._move(
            "promoted",
            adapter,
            lambda seen, at: rules.promote(seen, version, at=at, by_itself=by_itself),
            by=by,
            reason=reason,
            expected_revision=expected_revision,
            operation_id=operation_id,
            version=version,
            details=details,
        )

    def roll_back(
        self,
        adapter: str,
        to: int | None = None,
        *,
        by: str,
        reason: str = "",
        expected_revision: int | None = None,
        operation_id: str | None = None,
        details: dict[str, Any] | None = None,
    ) -> Rollout:
        """The champion moves back: to the champion before this one, or ``to`` an earlier version."""
        return self._move(
            "rolled_back",
            adapter,
            lambda seen, at: rules.roll_back(seen, to, at=at),
            by=by,
            reason=reason,
            expected_revision=expected_revision,
            operation_id=operation_id,
            details=details,
        )

    def start_canary(
        self,
        adapter: str,
        version: int,
        share: float,
        *,
        by: str,
        shadow: bool = False,
        reason: str = "",
        expected_revision: int | None = None,
        operation_id: str | None = None,
        details: dict[str, Any] | None = None,
    ) -> Rollout:
        """``version`` goes on trial with ``share`` (0 to 1) of the traffic; called again it changes the share.

        ``shadow``: the champion answers everything, the trial is scored on the side.
        """
        return self._move(
            "canary_started",
            adapter,
            lambda seen, at: rules.start_canary(seen, version, share, at=at, shadow=shadow),
            by=by,
            reason=reason,
            expected_revision=expected_revision,
            operation_id=operation_id,
            version=version,
            details={**(details or {}), "share": 0.0 if shadow else share, "shadow": shadow},
        )

    def end_canary(
        self,
        adapter: str,
        *,
        by: str,
        reason: str = "",
        expected_revision: int | None = None,
        operation_id: str | None = None,
        details: dict[str, Any] | None = None,
    ) -> Rollout:
        """The trial ends; the champion answers everything."""
        return self._move(
            "canary_ended",
            adapter,
            lambda seen, at: rules.end_canary(seen, at=at),
            by=by,
            reason=reason,
            expected_revision=expected_revision,
            operation_id=operation_id,
            details=details,
        )

    def retire(
        self,
        adapter: str,
        version: int,
        *,
        by: str,
        reason: str = "",
        expected_revision: int | None = None,
        operation_id: str | None = None,
    ) -> Version:
        """``version`` is never served again; its record and lineage stay. Pinned: ``Conflict``. Repeated: no change."""
        if self.store.version(adapter, version).retired:
            return self.store.version(adapter, version)
        self._move(
            "retired",
            adapter,
            lambda seen, at: rules.retire(seen, version, at=at),
            by=by,
            reason=reason,
            expected_revision=expected_revision,
            operation_id=operation_id,
            version=version,
            retires=version,
        )
        return self.store.version(adapter, version)

    def _move(
        self,
        kind: EventKind,
        adapter: str,
        rule: _Rule,
        *,
        by: str,
        reason: str,
        expected_revision: int | None,
        operation_id: str | None,
        version: int | None = None,
        details: dict[str, Any] | None = None,
        retires: int | None = None,
    ) -> Rollout:
        # An id of our own, too: a change whose answer was lost on the wire is sent again by the client library.
        operation_id = _checked(operation_id) or f"once-{uuid.uuid4().hex}"
        for _ in range(ATTEMPTS):
            seen, answered = self.store.rollout(adapter, operation_id)
            if answered is not None:
                return answered
            if expected_revision is not None and expected_revision != seen.revision:
                raise RolloutMoved(
                    adapter,
                    expected=expected_revision,
                    actual=seen.revision,
                    rollout=seen.model_dump(mode="json"),
                )
            at = now()
            after = rule(seen, at)
            event = Event(
                kind=kind,
                adapter=adapter,
                at=at,
                by=by,
                reason=reason,
                version=after.champion if kind == "rolled_back" else version or seen.challenger,
                before=seen.champion,
                after=after.champion,
                revision=after.revision,
                operation_id=operation_id,
                details=details or {},
            )
            try:
                return self.store.move(after, event, operation_id=operation_id, retires=retires)
            except RolloutMoved:
                if expected_revision is not None:
                    raise
        raise RolloutMoved(adapter, expected=seen.revision, actual=self.store.rollout(adapter)[0].revision)


def _checked(operation_id: str | None) -> str | None:
    if operation_id is not None and not 0 < len(operation_id) <= 200:
        raise BadInput("'operation_id' must have 1 to 200 characters.", field="operation_id")
    return operation_id
