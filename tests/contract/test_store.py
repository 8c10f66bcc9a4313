"""What every store guarantees, checked on the one in memory and the one in Redis alike."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest

from registry.connection import connect
from registry.errors import (
    AdapterUnknown,
    BadInput,
    Conflict,
    OperationReused,
    RolloutMoved,
    ShoalError,
    VersionRetired,
    VersionUnknown,
)
from registry.keys import Keys
from registry.moves import Moves
from registry.policy import CanaryPolicy, Policy
from registry.records import Event, Rollout, Version, now
from registry.store import Store
from registry.stores.memory import MemoryStore
from registry.stores.redis import RedisStore

AT = datetime(2026, 1, 1, tzinfo=UTC)
THREADS = 50


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest, namespace: str) -> Iterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    client = connect(request.getfixturevalue("redis_url"))
    yield RedisStore(client, Keys(namespace))
    client.close()


def create(store: Store, name: str = "bot") -> None:
    event = Event(kind="created", adapter=name, at=AT, by="ann", revision=0)
    assert store.create(Rollout(adapter=name, revision=0, moved_at=AT), event)


def add(store: Store, number: int, *, digest: int | None = None, name: str = "bot") -> tuple[Version, bool] | None:
    version = Version(
        adapter=name,
        version=number,
        digest=f"sha256:{digest if digest is not None else number:064x}",
        rank=4,
        size=10,
        created_at=AT,
        created_by="ann",
        note="caf\u00e9",
    )
    event = Event(kind="registered", adapter=name, at=AT, by="ann", version=number, revision=0)
    return store.add_version(version, event)


def stocked(store: Store, versions: int = 4) -> Moves:
    create(store)
    for number in range(1, versions + 1):
        assert add(store, number)
    return Moves(store)


def at_once(work: Callable[[int], object]) -> list[object]:
    """What ``work(i)`` answers or raises in THREADS threads that start together."""
    gate, answers = threading.Barrier(THREADS), [None] * THREADS

    def one(index: int) -> None:
        gate.wait()
        try:
            answers[index] = work(index)
        except ShoalError as error:
            answers[index] = error

    threads = [threading.Thread(target=one, args=(index,)) for index in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_an_adapter_is_created_once(store: Store) -> None:
    """A second creation changes nothing and leaves no event."""
    create(store)

    again = Event(kind="created", adapter="bot", at=now(), by="bob", revision=0)
    assert not store.create(Rollout(adapter="bot", revision=0, moved_at=now()), again)

    assert store.adapter("bot").created_by == "ann"
    assert store.adapter("bot").created_at == AT
    assert len(store.history("bot", 10, None)) == 1


def test_adapters_and_how_far_they_are_are_listed_by_name(store: Store) -> None:
    """Lists hold every adapter, in order, with its count and its rollout."""
    assert store.adapters() == []
    assert store.reached() == {}
    for name in ("b", "a.b-c_d", "c"):
        create(store, name)
    add(store, 1, name="b")
    Moves(store).promote("b", 1, by="ann")
    add(store, 2, name="b")

    assert [adapter.name for adapter in store.adapters()] == ["a.b-c_d", "b", "c"]
    assert store.reached() == {"a.b-c_d": (0, 0), "b": (1, 2), "c": (0, 0)}
    assert store.adapters()[1] == store.adapter("b")
    assert (store.adapter("b").versions, store.adapter("b").rollout.champion) == (2, 1)


def test_every_move_is_counted_and_nothing_else(store: Store) -> None:
    """Another count after each that changes a rollout; what changes none, a repeat and a refusal are not counted."""
    moves = Moves(store)
    seen = [store.moves_made()]

    def counted() -> bool:
        seen.append(store.moves_made())
        return seen[-1] not in seen[:-1]

    create(store)
    assert counted()
    add(store, 1)
    add(store, 2)
    add(store, 3)
    assert not counted()
    for change in (
        lambda: moves.promote("bot", 1, by="ann", operation_id="one"),
        lambda: moves.start_canary("bot", 2, 0.1, by="ann"),
        lambda: moves.end_canary("bot", by="ann"),
        lambda: moves.promote("bot", 2, by="ann"),
        lambda: moves.roll_back("bot", by="ann"),
        lambda: moves.pin("bot", 2, by="ann"),
        lambda: moves.unpin("bot", 2, by="ann"),
        lambda: moves.retire("bot", 3, by="ann"),
        lambda: moves.set_policy("bot", Policy(adapt_min_new=7), by="ann"),
    ):
        change()
        assert counted()
    moves.promote("bot", 1, by="ann", operation_id="one")  # a repeat is answered as the first time
    with pytest.raises(RolloutMoved):
        moves.promote("bot", 2, by="ann", expected_revision=1)
    again = Event(kind="created", adapter="bot", at=now(), by="bob", revision=0)
    assert not store.create(Rollout(adapter="bot", revision=0, moved_at=now()), again)
    assert not counted()


def test_what_is_unknown_is_named(store: Store) -> None:
    """Every question about an adapter or version that is not there is answered by the error that says so."""
    create(store)
    asked = [
        lambda: store.adapter("no"),
        lambda: store.versions("no"),
        lambda: store.version("no", 1),
        lambda: store.version_of("no", "sha256:" + "0" * 64),
        lambda: store.rollout("no"),
        lambda: store.history("no", 10, None),
        lambda: add(store, 1, name="no"),
        lambda: Moves(store).promote("no", 1, by="ann"),
    ]
    for ask in asked:
        with pytest.raises(AdapterUnknown):
            ask()
    with pytest.raises(VersionUnknown):
        store.version("bot", 1)
    with pytest.raises(VersionUnknown):
        Moves(store).promote("bot", 1, by="ann")
    assert store.version_of("bot", "sha256:" + "0" * 64) is None


def test_a_version_is_added_once_and_never_changes(store: Store) -> None:
    """The same bytes are the version there is; a number that is not next is not taken; nothing overwrites."""
    create(store)
    first = add(store, 1)
    assert first is not None
    assert first[1]

    assert add(store, 2, digest=1) == (first[0], False)
    assert add(store, 1, digest=7) is None
    assert add(store, 3) is None
    assert add(store, 2) is not None

    assert store.version("bot", 1) == first[0]
    assert store.version_of("bot", first[0].digest) == first[0]
    assert [version.version for version in store.versions("bot")] == [2, 1]
    assert [event.kind for event in store.history("bot", 10, None)] == ["registered", "registered", "created"]


def test_a_rollout_moves_only_from_the_revision_that_was_seen(store: Store) -> None:
    """A stale caller is told the rollout as it is; nothing changed and no event is left."""
    moves = stocked(store)
    moves.promote("bot", 1, by="ann", expected_revision=0)

    with pytest.raises(RolloutMoved) as refused:
        moves.promote("bot", 2, by="bob", expected_revision=0)

    assert refused.value.details["rollout"]["champion"] == 1
    assert (refused.value.expected, refused.value.actual) == (0, 1)
    assert store.rollout("bot")[0].champion == 1
    assert len(store.history("bot", 100, None)) == 6


def test_an_operation_id_is_answered_as_the_first_time(store: Store) -> None:
    """A repeated call is answered with the first rollout, even where the move would be refused by now."""
    moves = stocked(store)
    moves.promote("bot", 1, by="ann")
    moves.promote("bot", 2, by="ann")
    first = moves.roll_back("bot", by="ann", operation_id="back", expected_revision=2)

    moves.promote("bot", 3, by="ann")

    assert moves.roll_back("bot", by="ann", operation_id="back", expected_revision=2) == first
    assert store.rollout("bot")[0].champion == 3
    with pytest.raises(BadInput):
        moves.promote("bot", 1, by="ann", operation_id="")


def test_retired_versions_stay_readable_and_are_never_served(store: Store) -> None:
    """Retiring keeps record and number, takes the version off the trail, and refuses it ever after."""
    moves = stocked(store)
    for number in (1, 2, 3, 4):
        moves.promote("bot", number, by="ann")

    after = moves.retire("bot", 2, by="ann", reason="weak")
    assert moves.retire("bot", 2, by="ann") == after

    assert store.version("bot", 2).retired
    assert [version.retired for version in store.versions("bot")] == [False, False, True, False]
    assert store.rollout("bot")[0].trail == (1, 3)
    for refused in (
        lambda: moves.promote("bot", 2, by="ann"),
        lambda: moves.start_canary("bot", 2, 0.1, by="ann"),
        lambda: moves.roll_back("bot", 2, by="ann"),
    ):
        with pytest.raises(VersionRetired):
            refused()
    with pytest.raises(Conflict):
        moves.retire("bot", 4, by="ann")
    assert [str(event) for event in store.history("bot", 1, None)] == ["ann retired bot@2: weak"]
    assert moves.roll_back("bot", by="ann").champion == 3
    assert moves.roll_back("bot", by="ann").champion == 1


def test_events_say_who_when_why_from_and_to(store: Store) -> None:
    """Every move leaves one event with its number; pages of history fit together."""
    moves = stocked(store)
    moves.promote("bot", 1, by="ann", reason="first")
    moves.start_canary("bot", 2, 0.05, by="run-1", details={"run": "run-1"})
    moves.end_canary("bot", by="run-1")
    moves.promote("bot", 3, by="bob", operation_id="op-3")
    moves.roll_back("bot", by="ann", reason="worse")

    events = store.history("bot", 100, None)

    assert [event.number for event in events] == list(range(len(events), 0, -1))
    back, forth, ended, started, first = events[:5]
    assert (back.by, back.reason, back.before, back.after, back.version) == ("ann", "worse", 3, 1, 1)
    assert (forth.kind, forth.before, forth.after, forth.operation_id) == ("promoted", 1, 3, "op-3")
    assert (ended.kind, ended.version) == ("canary_ended", 2)
    assert started.details == {"run": "run-1", "share": 0.05, "shadow": False}
    assert (first.before, first.after, first.revision) == (None, 1, 1)
    assert store.history("bot", 3, None) + store.history("bot", 100, events[2].number) == events
    assert store.history("bot", 10, 1) == []


def test_one_operation_id_from_fifty_threads_is_one_move(store: Store) -> None:
    """Fifty deliveries of one rollback roll back once and are all answered the same."""
    moves = stocked(store)
    for number in (1, 2, 3):
        moves.promote("bot", number, by="ann")

    answers = at_once(lambda _: moves.roll_back("bot", by="ann", operation_id="once"))

    assert {answer.champion for answer in answers} == {2}
    assert store.rollout("bot")[0].revision == 4
    assert sum(event.kind == "rolled_back" for event in store.history("bot", 100, None)) == 1


def test_of_fifty_rivals_on_one_revision_one_wins(store: Store) -> None:
    """Fifty different moves from one revision: one happens, the others are told that it moved."""
    moves = stocked(store)

    answers = at_once(lambda i: moves.promote("bot", 1 + i % 4, by=f"rival-{i}", expected_revision=0))

    assert Counter(type(answer).__name__ for answer in answers) == {"Rollout": 1, "RolloutMoved": THREADS - 1}
    assert store.rollout("bot")[0].revision == 1
    assert sum(event.kind == "promoted" for event in store.history("bot", 100, None)) == 1


def test_without_a_revision_every_rival_gets_its_turn(store: Store) -> None:
    """Callers who do not care what was before are decided again until they win: fifty moves, fifty events."""
    moves = stocked(store)

    answers = at_once(lambda i: moves.promote("bot", 1 + i % 4, by=f"rival-{i}"))

    assert sorted(answer.revision for answer in answers) == list(range(1, THREADS + 1))
    assert sum(event.kind == "promoted" for event in store.history("bot", 100, None)) == THREADS


def test_rivals_for_a_number_get_different_ones(store: Store) -> None:
    """Fifty threads add fifty versions: each number once, without gaps; the same bytes become one version."""
    create(store)

    def register(index: int) -> tuple[Version, bool]:
        while True:
            added = add(store, store.adapter("bot").versions + 1, digest=index // 2)
            if added is not None:
                return added

    answers = at_once(register)

    assert sum(new for _, new in answers) == THREADS // 2
    assert [version.version for version in store.versions("bot")] == list(range(THREADS // 2, 0, -1))


def test_an_operation_id_stands_for_one_move(store: Store) -> None:
    """Another move under an id that was used is refused with what the id stands for; nothing happens."""
    moves = stocked(store)
    first = moves.promote("bot", 1, by="ann", operation_id="x")

    for other in (
        lambda: moves.promote("bot", 2, by="ann", operation_id="x"),
        lambda: moves.retire("bot", 2, by="ann", operation_id="x"),
        lambda: moves.set_policy("bot", Policy(promote=False), by="ann", operation_id="x"),
    ):
        with pytest.raises(OperationReused, match="stands for 'promote version 1'"):
            other()

    assert store.rollout("bot").rollout == first
    gone = moves.retire("bot", 2, by="ann", operation_id="gone")
    moves.promote("bot", 3, by="ann")
    assert moves.retire("bot", 2, by="ann", operation_id="gone") == gone


@pytest.mark.parametrize(
    "reason", ["x" * 2001, "good\n2026 r9 bob promoted bot", "\x1b[2J", "\u202egood", "\u2028", "\ud800"]
)
def test_a_reason_is_one_line_that_can_be_shown(store: Store, reason: str) -> None:
    """Of every move, whoever makes it; what is refused moves nothing."""
    moves = stocked(store)
    moves.promote("bot", 1, by="ann", reason="x" * 2000)
    for move in (
        lambda: moves.promote("bot", 2, by="ann", reason=reason),
        lambda: moves.pin("bot", 2, by="ann", reason=reason),
        lambda: moves.retire("bot", 2, by="ann", reason=reason),
        lambda: moves.set_policy("bot", Policy(promote=False), by="ann", reason=reason),
    ):
        with pytest.raises(BadInput, match="'reason'"):
            move()
    assert store.rollout("bot").rollout.revision == 1


def test_what_is_pinned_is_known_and_stays(store: Store) -> None:
    """Unknown and retired versions are not pinned; a pinned one is not retired until it is unpinned."""
    moves = stocked(store)
    moves.promote("bot", 1, by="ann")
    moves.retire("bot", 4, by="ann")
    with pytest.raises(VersionUnknown):
        moves.pin("bot", 9, by="ann")
    with pytest.raises(VersionRetired, match="`shoal versions bot` lists the others"):
        moves.pin("bot", 4, by="ann")

    assert moves.pin("bot", 2, by="ann").pinned == (1, 2)
    with pytest.raises(Conflict, match="shoal unpin bot 2"):
        moves.retire("bot", 2, by="ann")
    assert moves.unpin("bot", 2, by="ann").pinned == (1,)
    with pytest.raises(Conflict, match="not pinned"):
        moves.unpin("bot", 2, by="ann")
    moves.retire("bot", 2, by="ann")


def test_a_policy_changes_by_the_same_move(store: Store) -> None:
    """It takes a revision and leaves one event with both policies; a trial without a share gets the policy's."""
    moves = stocked(store)
    moves.promote("bot", 1, by="ann")
    assert (store.rollout("bot").policy, store.policies()) == (Policy(), {})

    after = Policy(adapt_every=60, promote=False, canary=CanaryPolicy(share=0.2))
    assert moves.set_policy("bot", after, by="ann", expected_revision=1).revision == 2
    with pytest.raises(RolloutMoved):
        moves.set_policy("bot", Policy(), by="ann", expected_revision=1)

    assert (store.rollout("bot").policy, store.policies()) == (after, {"bot": after})
    (event,) = store.history("bot", 1, None)
    assert (event.kind, str(event)) == ("policy_changed", "ann changed the policy of bot")
    told = (event.details["before"], event.details["after"])
    assert told == (Policy().model_dump(mode="json"), after.model_dump(mode="json"))
    assert moves.start_canary("bot", 2, by="ann").challenger_share == 0.2


def test_changes_name_the_adapter(store: Store) -> None:
    """Whoever listens hears the name of an adapter that moved; silence is told as None."""
    moves = stocked(store)
    heard = store.changes(0.05)
    assert next(heard) is None

    moves.promote("bot", 1, by="ann")

    assert "bot" in [next(heard) for _ in range(20)]
    assert None in [next(heard) for _ in range(3)]
    heard.close()
