"""The moves of a rollout over any store: read it, apply the rule, write it if nobody was faster."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Required, TypedDict, Unpack

from registry import rollout as rules
from registry.errors import BadInput, OperationReused, RolloutMoved
from registry.policy import Policy
from registry.records import Event, EventKind, Rollout, now
from registry.store import Answered, Seen, Store
from registry.text import a_reason

ATTEMPTS = 1000  # every lost race is somebody else's move, so this many in a row mean something is broken


class How(TypedDict, total=False):
    """What every move takes: who, why (``a_reason``), from which revision, under which id, and figures for the history."""

    by: Required[str]
    reason: str
    expected_revision: int | None
    operation_id: str | None
    details: dict[str, Any] | None


@dataclass(frozen=True)
class _Move:
    """``asked``: the move in words, which tell a repeated call from another one under the same id."""

    kind: EventKind
    asked: str
    rule: Callable[[Seen, datetime], Rollout]
    version: int | None = None
    tells: Callable[[Seen, Rollout], dict[str, Any]] = lambda seen, after: {}
    pins: int | None = None
    retires: int | None = None
    policy: Policy | None = None


class Moves:
    """promote, roll_back, start_canary, end_canary, pin, unpin, retire, set_policy.

    Each is atomic, leaves one event and answers the rollout after it. With ``expected_revision`` it happens only from that
    revision, else ``RolloutMoved``; without, it is decided again on the newest rollout until it wins. A repeated
    ``operation_id`` is answered with the rollout of the first time, whatever has happened since; where the id stands for
    another move, ``OperationReused``.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    def promote(self, adapter: str, version: int, *, by_itself: bool = False, **how: Unpack[How]) -> Rollout:
        """The champion moves forward to ``version``. ``by_itself``: no person asked, so a withdrawn version is refused.

        Whether the replicas can serve it is not asked here: see ``Registry.ready``.
        """

        def rule(seen: Seen, at: datetime) -> Rollout:
            return rules.promote(seen.rollout, version, at=at, by_itself=by_itself)

        return self._make(adapter, _Move("promoted", f"promote version {version}", rule, version), how)

    def roll_back(self, adapter: str, to: int | None = None, **how: Unpack[How]) -> Rollout:
        """The champion moves back: to the champion before this one, or ``to`` an earlier version."""

        def rule(seen: Seen, at: datetime) -> Rollout:
            return rules.roll_back(seen.rollout, to, at=at)

        asked = "roll back" if to is None else f"roll back to version {to}"
        return self._make(adapter, _Move("rolled_back", asked, rule), how)

    def start_canary(
        self,
        adapter: str,
        version: int,
        share: float | None = None,
        *,
        shadow: bool = False,
        by_itself: bool = False,
        **how: Unpack[How],
    ) -> Rollout:
        """``version`` goes on trial with ``share`` (0 to 1; default: the policy's) of the traffic; again: the share changes.

        ``shadow``: the champion answers everything, the trial is scored on the side. ``by_itself``: no person asked, so a
        withdrawn version is refused, and so is one beside another's trial.
        """

        def rule(seen: Seen, at: datetime) -> Rollout:
            given = seen.policy.canary.share if share is None else share
            return rules.start_canary(seen.rollout, version, given, at=at, shadow=shadow, by_itself=by_itself)

        def tells(seen: Seen, after: Rollout) -> dict[str, Any]:
            return {"share": after.challenger_share, "shadow": after.shadow}

        where = "in the shadow" if shadow else "with the policy's share" if share is None else f"with share {share}"
        return self._make(
            adapter, _Move("canary_started", f"put version {version} on trial {where}", rule, version, tells), how
        )

    def end_canary(self, adapter: str, *, withdraw: bool = False, **how: Unpack[How]) -> Rollout:
        """The trial ends; the champion answers everything. ``withdraw``: the version was found worse and is kept back."""

        def rule(seen: Seen, at: datetime) -> Rollout:
            return rules.end_canary(seen.rollout, at=at, withdraw=withdraw)

        def tells(seen: Seen, after: Rollout) -> dict[str, Any]:
            return {"withdrawn": True} if withdraw else {}

        asked = "end the trial and keep its version back" if withdraw else "end the trial"
        return self._make(adapter, _Move("canary_ended", asked, rule, tells=tells), how)

    def pin(self, adapter: str, version: int, **how: Unpack[How]) -> Rollout:
        """Every replica keeps ``version`` loaded until it is unpinned; a pinned version is not retired."""

        def rule(seen: Seen, at: datetime) -> Rollout:
            return rules.pin(seen.rollout, version, at=at)

        return self._make(adapter, _Move("pinned", f"pin version {version}", rule, version, pins=version), how)

    def unpin(self, adapter: str, version: int, **how: Unpack[How]) -> Rollout:
        """``version`` is kept loaded only while the rollout itself needs it. Not pinned: ``Conflict``."""

        def rule(seen: Seen, at: datetime) -> Rollout:
            return rules.unpin(seen.rollout, version, at=at)

        return self._make(adapter, _Move("unpinned", f"unpin version {version}", rule, version), how)

    def retire(self, adapter: str, version: int, **how: Unpack[How]) -> Rollout:
        """``version`` is never served again; its record and lineage stay. Kept loaded: ``Conflict``. Retired: no change."""

        def rule(seen: Seen, at: datetime) -> Rollout:
            return rules.retire(seen.rollout, version, at=at)

        return self._make(adapter, _Move("retired", f"retire version {version}", rule, version, retires=version), how)

    def set_policy(
        self, adapter: str, policy: Policy, *, check: Callable[[], object] = lambda: None, **how: Unpack[How]
    ) -> Rollout:
        """``policy`` replaces the one there is; the event tells both. ``check`` raises where what it names is not there: asked
        when the policy would be set, so not for a repeated call, which is answered as the first time."""

        def rule(seen: Seen, at: datetime) -> Rollout:
            check()
            return rules.change_policy(seen.rollout, at=at)

        def tells(seen: Seen, after: Rollout) -> dict[str, Any]:
            return {"before": seen.policy.model_dump(mode="json"), "after": policy.model_dump(mode="json")}

        asked = f"set the policy {policy.model_dump_json()}"
        return self._make(adapter, _Move("policy_changed", asked, rule, tells=tells, policy=policy), how)

    def _make(self, adapter: str, move: _Move, how: How) -> Rollout:
        # An id of our own, too: a change whose answer was lost on the wire is sent again by the client library.
        operation_id = _checked(how.get("operation_id")) or f"once-{uuid.uuid4().hex}"
        a_reason(how.get("reason", ""))
        expected = how.get("expected_revision")
        for _ in range(ATTEMPTS):
            seen = self.store.rollout(adapter, operation_id)
            if seen.answered is not None:
                return _same(seen.answered, operation_id, move.asked)
            if move.retires is not None and self.store.version(adapter, move.retires).retired:
                return seen.rollout
            if expected is not None and expected != seen.rollout.revision:
                raise RolloutMoved(
                    adapter,
                    expected=expected,
                    actual=seen.rollout.revision,
                    rollout=seen.rollout.model_dump(mode="json"),
                )
            at = max(now(), seen.rollout.moved_at)  # clocks differ between machines; a history does not run backwards
            after = move.rule(seen, at)
            try:
                answered = self.store.move(
                    Answered(asked=move.asked, rollout=after),
                    _event(move, seen, after, how, operation_id),
                    operation_id=operation_id,
                    pins=move.pins,
                    retires=move.retires,
                    policy=move.policy,
                )
            except RolloutMoved:
                if expected is not None:
                    raise
            else:
                return _same(answered, operation_id, move.asked)
        raise RolloutMoved(adapter, expected=seen.rollout.revision, actual=self.store.rollout(adapter).rollout.revision)


def _event(move: _Move, seen: Seen, after: Rollout, how: How, operation_id: str) -> Event:
    version = move.version
    if move.kind == "rolled_back":
        version = after.champion
    elif move.kind == "canary_ended":
        version = seen.rollout.challenger
    return Event(
        kind=move.kind,
        adapter=after.adapter,
        at=after.moved_at,
        by=how["by"],
        reason=how.get("reason", ""),
        version=version,
        before=seen.rollout.champion,
        after=after.champion,
        revision=after.revision,
        operation_id=operation_id,
        live=after.live,
        details={**(how.get("details") or {}), **move.tells(seen, after)},
    )


def _same(answered: Answered, operation_id: str, asked: str) -> Rollout:
    """The first answer, if it was given to the same move. An answer of before moves were told apart says nothing of it."""
    if answered.asked not in ("", asked):
        rollout = answered.rollout
        raise OperationReused(
            rollout.adapter,
            operation_id,
            stands_for=answered.asked,
            asked=asked,
            answered=rollout.model_dump(mode="json"),
        )
    return answered.rollout


def _checked(operation_id: str | None) -> str | None:
    if operation_id is not None and not 0 < len(operation_id) <= 200:
        raise BadInput("'operation_id' must have 1 to 200 characters.", field="operation_id")
    return operation_id
