"""Random moves against a small model of their own, over both stores: who wins, what history says, what was live when."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from registry.connection import connect
from registry.errors import RolloutMoved, ShoalError
from registry.history import live_at
from registry.keys import Keys
from registry.moves import Moves
from registry.policy import CanaryPolicy, Policy
from registry.records import Event, Live, Rollout, Version, now
from registry.store import Store
from registry.stores.memory import MemoryStore
from registry.stores.redis import RedisStore

VERSIONS = 5
KINDS = ["promote", "back", "back_to", "canary", "shadow", "end", "pin", "unpin", "retire", "policy"]


@dataclass(frozen=True)
class Model:
    """The adapter as a careful reader of the docs would keep it on paper."""

    revision: int = 0
    champion: int | None = None
    trail: tuple[int, ...] = ()
    trial: tuple[int | None, float, bool] = (None, 0.0, False)
    pins: frozenset[int] = frozenset()
    retired: frozenset[int] = frozenset()
    share: float = 0.05

    @property
    def live(self) -> tuple[Any, ...]:
        return (self.revision, self.champion, *self.trial, self.pins)

    def after(self, kind: str, version: int) -> Model | None:  # noqa: PLR0911  one return a move
        """The model after a move, or None where it must be refused."""
        champion, here = self.champion, 1 <= version <= VERSIONS and version not in self.retired
        then = replace(self, revision=self.revision + 1)
        if kind == "promote" and here:
            trail = self.trail if champion in (None, version) else (*self.trail, champion)
            return replace(then, champion=version, trail=trail, trial=(None, 0.0, False))
        if kind in ("back", "back_to") and champion is not None:
            return self.back(
                then, self.trail[-1] if kind == "back" and self.trail else version if kind == "back_to" else None
            )
        if kind in ("canary", "shadow") and here and champion not in (None, version):
            return replace(then, trial=(version, 0.0, True) if kind == "shadow" else (version, self.share, False))
        if kind == "end" and self.trial[0] is not None:
            return replace(then, trial=(None, 0.0, False))
        if kind == "pin" and here:
            return replace(then, pins=self.pins | {version})
        if kind == "unpin" and version in self.pins:
            return replace(then, pins=self.pins - {version})
        if kind == "retire" and here and version not in {champion, self.trial[0], *self.trail[-1:], *self.pins}:
            left = [held for held in self.trail if held != version]
            steps = tuple(held for held, before in zip(left, [None, *left], strict=False) if held != before)
            return replace(then, retired=self.retired | {version}, trail=steps)
        return replace(then, share=version / 10) if kind == "policy" else None

    def back(self, then: Model, to: int | None) -> Model | None:
        earlier = to is not None and to != self.champion and (to in self.trail or to < (self.champion or 0))
        if not earlier or to in self.retired or not 1 <= (to or 0) <= VERSIONS:
            return None
        trail = list(self.trail)
        if to in trail:
            while trail.pop() != to:
                pass
        else:
            low = [held for held in trail if held < (to or 0)]
            trail = [held for held, before in zip(low, [None, *low], strict=False) if held != before]
        return replace(then, champion=to, trail=tuple(trail), trial=(None, 0.0, False))


CALLS: dict[str, Callable[..., Rollout]] = {
    "promote": lambda moves, version, how: moves.promote("bot", version, **how),
    "back": lambda moves, version, how: moves.roll_back("bot", **how),
    "back_to": lambda moves, version, how: moves.roll_back("bot", version, **how),
    "canary": lambda moves, version, how: moves.start_canary("bot", version, **how),
    "shadow": lambda moves, version, how: moves.start_canary("bot", version, shadow=True, **how),
    "end": lambda moves, version, how: moves.end_canary("bot", **how),
    "pin": lambda moves, version, how: moves.pin("bot", version, **how),
    "unpin": lambda moves, version, how: moves.unpin("bot", version, **how),
    "retire": lambda moves, version, how: moves.retire("bot", version, **how),
    "policy": lambda moves, version, how: moves.set_policy(
        "bot", Policy(canary=CanaryPolicy(share=version / 10)), **how
    ),
}
# Whatever its number, a move that takes no version is one move.
WITHOUT = {"back", "end"}


class Rival:
    """A store whose next move comes second: the rival's is made between its caller's look and its write."""

    def __init__(self, store: Store, first: Callable[[], object]) -> None:
        self._store, self._first = store, first

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def move(self, *given: Any, **how: Any) -> Any:
        first, self._first = self._first, lambda: None
        first()
        return self._store.move(*given, **how)


@dataclass
class Answer:
    kind: str
    version: int
    rollout: Rollout


class Walk(RuleBasedStateMachine):
    make: Callable[[], Store]

    @initialize()
    def begin(self) -> None:
        self.store, self.model = type(self).make(), Model()
        self.answers: dict[str, Answer] = {}
        self.lives: list[tuple[Event, tuple[Any, ...]]] = []
        rollout = Rollout(adapter="bot", revision=0, moved_at=now())
        made = {"adapter": "bot", "by": "ann", "revision": 0}
        self.store.create(rollout, Event(kind="created", at=rollout.moved_at, live=rollout.live, **made))
        self.remember()
        for number in range(1, VERSIONS + 1):
            facts = {"rank": 4, "size": 1, "created_at": now(), "created_by": "ann"}
            version = Version(adapter="bot", version=number, digest=f"sha256:{number:064x}", **facts)
            self.store.add_version(version, Event(kind="registered", at=now(), version=number, **made))

    def remember(self) -> None:
        (event,) = self.store.history("bot", 1, None)
        self.lives.append((event, self.model.live))

    def ask(self, moves: Moves, kind: str, version: int, **how: Any) -> Rollout:
        return CALLS[kind](moves, version, {"by": "ann", **how})

    @rule(
        kind=st.sampled_from(KINDS),
        version=st.integers(1, VERSIONS + 1),
        seen=st.sampled_from([None, 0, -1, 1]),
        name=st.sampled_from([None, "a", "b", "c", "d"]),
    )
    def move(self, kind: str, version: int, seen: int | None, name: str | None) -> None:
        expected = None if seen is None else self.model.revision + seen
        how = {"expected_revision": expected, "operation_id": name}
        before = self.answers.get(name or "")
        if before is not None:
            if before.kind == kind and (kind in WITHOUT or before.version == version):
                assert self.ask(Moves(self.store), kind, version, **how) == before.rollout
            else:
                with pytest.raises(ShoalError):
                    self.ask(Moves(self.store), kind, version, **how)
            return
        if kind == "retire" and version in self.model.retired:
            assert self.ask(Moves(self.store), kind, version, **how).revision == self.model.revision
            return
        after = self.model.after(kind, version) if seen in (None, 0) else None
        if after is None:
            with pytest.raises(ShoalError):
                self.ask(Moves(self.store), kind, version, **how)
            return
        rollout = self.ask(Moves(self.store), kind, version, **how)
        self.model = after
        if name is not None:
            self.answers[name] = Answer(kind, version, rollout)
        self.remember()

    @rule(first=st.sampled_from(KINDS), second=st.sampled_from(KINDS), version=st.integers(1, VERSIONS))
    def rivals(self, first: str, second: str, version: int) -> None:
        """Two callers decide on one revision: the one who writes first wins, the other is told so."""
        winner, loser = self.model.after(first, version), self.model.after(second, version)
        if winner is None or loser is None or first == second == "retire":
            return  # one of them is no move; or both want the same for good, and both have it
        expected = self.model.revision
        rival = Rival(self.store, lambda: self.ask(Moves(self.store), first, version, expected_revision=expected))
        with pytest.raises(RolloutMoved) as told:
            self.ask(Moves(rival), second, version, expected_revision=expected)
        assert told.value.details["rollout"]["revision"] == winner.revision
        self.model = winner
        self.remember()

    @invariant()
    def the_store_holds_what_the_model_says(self) -> None:
        if not hasattr(self, "store"):
            return
        rollout = self.store.rollout("bot").rollout
        assert facts(rollout.live) == self.model.live
        assert rollout.trail == self.model.trail
        assert {v.version for v in self.store.versions("bot") if v.retired} == self.model.retired

    def teardown(self) -> None:
        """One event a move, numbered and revised without gaps; what was live at each of them is known."""
        if not hasattr(self, "store"):
            return
        events = self.store.history("bot", 1000, None)
        assert [event.number for event in events] == list(range(len(events), 0, -1))
        moves = [event for event in reversed(events) if event.kind != "registered"]
        assert [event.revision for event in moves] == list(range(self.model.revision + 1))
        latest = {event.at: live for event, live in self.lives}  # of two moves in one microsecond the later counts
        for at, live in latest.items():
            assert facts(live_at(self.store, "bot", at).live) == live


def facts(live: Live) -> tuple[Any, ...]:
    trial = (live.challenger, live.challenger_share, live.shadow)
    return (live.revision, live.champion, *trial, frozenset(live.pins))


@pytest.mark.parametrize("kind", ["memory", "redis"])
def test_any_walk_ends_where_the_model_says(kind: str, request: pytest.FixtureRequest) -> None:
    """Moved, refused, repeated, reused, stale or beaten: one event a move, one winner a revision, nothing else changed."""
    client = connect(request.getfixturevalue("redis_url")) if kind == "redis" else None

    class Here(Walk):
        @staticmethod
        def make() -> Store:
            return MemoryStore() if client is None else RedisStore(client, Keys(f"walk-{uuid.uuid4().hex[:12]}"))

    how = settings(max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(Here, settings=how)
    if client is not None:
        client.close()
