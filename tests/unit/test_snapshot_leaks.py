"""What holds of a snapshot whatever the feedback: nothing leaks, no rater steers, the same gives the same."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.near_duplicates import near_pairs
from registry.records import Feedback, Message, Snapshot, SnapshotItem
from registry.snapshot_filter import FEWEST, Chosen, SnapshotFilter
from registry.snapshots import content, freeze, read

AT = datetime(2026, 1, 1, tzinfo=UTC)
ROOT = Path(__file__).parents[2]


def said(number: int, prompt: str, **fields: object) -> Feedback:
    how = {"answer": "yes", "rating": 1.0, **fields}
    return Feedback(id=f"fb-{number}", adapter="bot", prompt=prompt, at=AT + timedelta(minutes=number), **how)


def frozen(
    feedback: list[Feedback], *, seed: int = 0, limit: int = 200, confirm: int = 1000, **fields: object
) -> Snapshot:
    chosen = SnapshotFilter.model_validate(fields)
    return freeze("bot", feedback, limit_search=limit, limit_confirm=confirm, seed=seed, at=AT, chosen=chosen)


def crowd(rng: random.Random, raters: int, each: int, *, anonymous: int = 0) -> list[Feedback]:
    """Feedback of many raters in conversations, some prompts shared, some nearly repeated, some chats going on."""
    told: list[Feedback] = []
    words = [f"{a}{b}" for a, b in itertools.product("bcdfg", "aeiou")]
    who = [f"rater-{number}" for number in range(raters) for _ in range(each)] + ["anonymous"] * anonymous
    rng.shuffle(who)
    for rater in who:
        number = len(told)
        prompt = " ".join(rng.choices(words, k=rng.randint(4, 12)))
        if told and rng.random() < 0.1:
            prompt = (rng.choice(told).prompt or prompt).upper() + rng.choice(["", "!", " please"])
        how: dict[str, object] = {"rater": rater}
        if rng.random() < 0.4:
            how["conversation"] = f"conversation-{rater}-{rng.randint(0, 3)}"
        if rng.random() < 0.3:
            how |= {"correction": "no", "rating": None}
        if rng.random() < 0.2:
            how["rating"] = 0.0
        how["labels"] = tuple(sorted({rng.choice("xyz") for _ in range(rng.randint(0, 2))}))
        one = said(number, prompt, **how)
        if rng.random() < 0.2:
            chat: tuple[Message, ...] = (Message(role="user", content=prompt),)
            earlier = [other for other in told if other.messages]
            if earlier and rng.random() < 0.5:
                before = rng.choice(earlier)
                answered = Message(role="assistant", content=before.answer or "")
                chat = (*(before.messages or ()), answered, Message(role="user", content=f"go on {number}"))
            one = one.model_copy(update={"prompt": None, "messages": chat})
        told.append(one)
    return told


def leaks(snapshot: Snapshot, feedback: list[Feedback]) -> set[str]:
    """What is on both sides, computed anew from what was fed in: kinds of owner, with their names."""
    by_id = {one.id: one for one in feedback}
    sides: dict[str, tuple[set[str], ...]] = defaultdict(lambda: (set(), set()))
    for side, half in enumerate((snapshot.search, snapshot.confirm)):
        for item in half:
            sides["prompt"][side].add(item.digest)
            for one in (by_id[source] for source in item.sources):
                if one.conversation:
                    sides["conversation"][side].add(one.conversation)
                if one.rater != "anonymous":
                    sides["rater"][side].add(one.rater)
    shared = {f"{kind}: {name}" for kind, (search, confirm) in sides.items() for name in search & confirm}
    both = (*snapshot.search, *snapshot.confirm)
    across = {place: place < len(snapshot.search) for place in range(len(both))}
    shared |= {f"near: {a}, {b}" for a, b in near_pairs(both, 0.8) if across[a] != across[b]}
    return shared


def heard(half: tuple[SnapshotItem, ...], feedback: list[Feedback]) -> Counter[str]:
    """How many items each identified rater has in a half; those who agree share an item."""
    by_id = {one.id: one for one in feedback}
    held: Counter[str] = Counter()
    for item in half:
        raters = {by_id[source].rater for source in item.sources}
        for rater in raters - {"anonymous"}:
            held[rater] += 1 / len(raters)  # type: ignore[assignment]
    return held


@settings(deadline=None, max_examples=15)
@given(
    st.integers(0, 10_000),
    st.integers(6, 30),
    st.integers(2, 8),
    st.sampled_from([0, 40]),
    st.sampled_from(["drop", "keep"]),
)
def test_nothing_leaks_and_order_does_not_matter(seed: int, raters: int, each: int, anonymous: int, near: str) -> None:
    """No prompt is on both sides, no conversation and no near-duplicate unless the split is by prompt alone, and no
    identified rater where it is by rater; and any order of arrival gives the same digest."""
    rng = random.Random(seed)
    feedback = crowd(rng, raters, each, anonymous=anonymous)
    snapshot = frozen(feedback, seed=seed, near_duplicates=near)

    assert frozen(rng.sample(feedback, len(feedback)), seed=seed, near_duplicates=near) == snapshot
    allowed = {"rater": (), "conversation": ("rater",), "prompt": ("rater", "conversation", "near")}[snapshot.split_by]
    assert {leak for leak in leaks(snapshot, feedback) if not leak.startswith(tuple(allowed) or "-")} == set()
    items = len(snapshot.search) + len(snapshot.confirm)
    assert min(len(snapshot.search), len(snapshot.confirm)) >= items // 3 - 1
    assert snapshot.counts["prompts"] == items + sum(
        snapshot.counts[name] for name in ("near_duplicates", "over_rater_cap", "over_balance", "over_limits")
    )


@settings(deadline=None, max_examples=8)
@given(
    st.integers(0, 10_000), st.integers(12, 30), st.sampled_from([0.1, 0.2, 0.4]), st.sampled_from(["none", "good_bad"])
)
def test_no_rater_has_more_than_their_share_of_either_half(seed: int, raters: int, share: float, balance: str) -> None:
    """Whoever floods is held to the share, in the half that is searched and in the half that confirms, or the snapshot says
    that the cap gave way; and it gives way only where a run would have too few items."""
    rng = random.Random(seed)
    feedback = crowd(rng, raters, 12)
    feedback += [
        said(len(feedback) + number, f"flood {rng.random()}", rater="loud", correction="!", rating=None)
        for number in range(900)
    ]
    snapshot = frozen(feedback, seed=seed, max_rater_share=share, balance=balance)
    for half in (snapshot.search, snapshot.confirm):
        voices = heard(half, feedback)
        most = max(share, 1 / max(1, len(voices))) * len(half)
        assert not snapshot.cap_held or max(voices.values(), default=0) <= most + most**0.5
    both = heard((*snapshot.search, *snapshot.confirm), feedback)
    items = len(snapshot.search) + len(snapshot.confirm)
    assert not snapshot.cap_held or max(both.values()) <= max(share, 1 / len(both)) * items + 1e-9
    assert snapshot.cap_held or len(snapshot.search) + len(snapshot.confirm) <= FEWEST + raters
    if balance == "none":
        assert snapshot.cap_held
        assert snapshot.rater_cap is not None


@pytest.mark.parametrize("how", ["contradicts", "repeats, with an earlier time"])
def test_nobody_empties_a_snapshot_by_having_a_word_on_everything(how: str) -> None:
    """One rater who contradicts every prompt, or asks nearly the same of each before it was asked, displaces nobody; two such
    of equal weight, who might as well be right, silence what they dispute, as any two do."""
    words = [f"{a}{b}" for a, b in itertools.product("bcdfg", "aeiou")]
    rng = random.Random(5)
    honest = [
        said(n, " ".join(rng.choices(words, k=9)), rater=f"rater-{n % 20}", rating=float(n % 2)) for n in range(200)
    ]

    def against(number: int, one: Feedback) -> Feedback:
        told: dict[str, object] = {"rater": "loud", "rating": 1 - float(one.rating or 0), "at": AT - timedelta(days=9)}
        if how == "contradicts":
            return said(1000 + number, one.prompt or "").model_copy(update=told)
        return said(1000 + number, f"{one.prompt}!").model_copy(update=told)

    loud = [against(number, one) for number, one in enumerate(honest)]
    snapshot = frozen([*honest, *loud])
    assert snapshot.search == frozen(honest).search
    assert "loud" not in heard((*snapshot.search, *snapshot.confirm), [*honest, *loud])
    if how == "contradicts":
        lone = [one.model_copy(update={"rater": "other"}) for one in honest]
        assert frozen([*lone, *loud]).search == ()


def test_without_the_cap_the_flood_is_nearly_all() -> None:
    """What the cap is for: with a share of 1 a rater who sends most decides most."""
    feedback = crowd(random.Random(1), 20, 5)
    feedback += [said(1000 + number, f"flood of {number}", rater="loud") for number in range(900)]

    def loud(snapshot: Snapshot) -> float:
        both = (*snapshot.search, *snapshot.confirm)
        return heard(both, feedback)["loud"] / len(both)

    assert loud(frozen(feedback, max_rater_share=1)) > 0.8
    assert loud(frozen(feedback)) <= 0.2
    assert heard((*(s := frozen(feedback, max_per_rater=3)).search, *s.confirm), feedback)["loud"] == 3


def test_a_lone_rater_is_not_capped_and_two_share() -> None:
    """One rater has all there is; of two each has half; where that were too little for a run, the cap gives way to 80."""
    ann = [said(number, f"ask {number} of ann", rater="ann") for number in range(300)]
    alone = frozen(ann)
    assert (len(alone.search) + len(alone.confirm), alone.rater_cap, alone.split_by) == (300, None, "conversation")

    bob = [said(1000 + number, f"ask {number} of bob", rater="bob") for number in range(100)]
    two = frozen([*ann, *bob])
    for half in (two.search, two.confirm):
        assert heard(half, [*ann, *bob])["ann"] <= 0.625 * len(half)

    few = frozen([*ann, *bob[:3]])
    assert len(few.search) + len(few.confirm) == FEWEST
    assert not few.cap_held


def test_a_split_by_rater_that_cannot_be_is_one_by_conversation() -> None:
    """With two raters a split by rater would search on one's taste and confirm on the other's; conversations stay whole."""
    feedback = [
        said(number, f"ask {number} of them", rater="ab"[number % 2], conversation=f"c{number // 6}")
        for number in range(240)
    ]
    snapshot = frozen(feedback)
    assert snapshot.split_by == "conversation"
    assert {leak.split(":")[0] for leak in leaks(snapshot, feedback)} == {"rater"}
    assert min(len(snapshot.search), len(snapshot.confirm)) >= 80
    one_talk = frozen([one.model_copy(update={"conversation": "c"}) for one in feedback])
    assert one_talk.split_by == "prompt"
    assert min(len(one_talk.search), len(one_talk.confirm)) >= 80


def test_a_chat_that_goes_on_is_one_conversation_without_an_id() -> None:
    """A later turn follows the item whose answer it goes on from; the same greeting elsewhere joins nothing."""
    told = []
    for number in range(60):
        first = (Message(role="user", content="hi"), Message(role="assistant", content="Hello!"))
        asked = (*first, Message(role="user", content=f"question {number}"))
        then = (
            *asked,
            Message(role="assistant", content=f"answer {number}"),
            Message(role="user", content="and then?"),
        )
        for turn, messages in enumerate((asked, then)):
            how = {"messages": messages, "answer": f"answer {number}", "id": f"{number}-{turn}", "prompt": None}
            told.append(said(number, "-").model_copy(update=how))
    snapshot = frozen(told, near_duplicates="keep")
    sides = [
        {source.split("-")[0] for item in half for source in item.sources}
        for half in (snapshot.search, snapshot.confirm)
    ]
    assert sides[0].isdisjoint(sides[1])
    assert snapshot.split_by == "rater"
    assert len(snapshot.search) + len(snapshot.confirm) == 120


def test_near_duplicates_go_but_the_first_and_most_judged_stays() -> None:
    """Of several that say the same one stays: no later repetition takes its place, whoever sends it."""
    told = [said(number, f"question {number}", rater=f"r{number % 9}") for number in range(100)]
    again = [said(200 + number, f"  QUESTION {number}!", rater=f"s{number % 9}", rating=0.0) for number in range(100)]
    snapshot = frozen([*told, *again])
    assert snapshot.counts["near_duplicates"] == 100
    assert {source for item in (*snapshot.search, *snapshot.confirm) for source in item.sources} <= {
        one.id for one in told
    }
    kept = frozen([*told, *again], near_duplicates="keep")
    assert kept.counts["near_duplicates"] == 0
    assert leaks(kept, [*told, *again]) == set()


def sources(snapshot: Snapshot) -> set[str]:
    return {source for item in (*snapshot.search, *snapshot.confirm) for source in item.sources}


@pytest.mark.parametrize(
    ("fields", "taken"),
    [
        ({}, {"fb-0", "fb-1", "fb-2", "fb-3"}),
        ({"since": AT + timedelta(minutes=1)}, {"fb-1", "fb-2", "fb-3"}),
        ({"until": AT + timedelta(minutes=2)}, {"fb-0", "fb-1"}),
        ({"last": 0.0}, {"fb-0", "fb-1", "fb-2", "fb-3"}),
        ({"versions": (1,)}, {"fb-0", "fb-2"}),
        ({"versions": (2, 3)}, {"fb-1"}),
        ({"raters": Chosen(include=("ann",))}, {"fb-0"}),
        ({"raters": Chosen(exclude=("anonymous",))}, {"fb-0", "fb-1"}),
        ({"labels": Chosen(include=("maths",))}, {"fb-1", "fb-2"}),
        ({"labels": Chosen(exclude=("easy",))}, {"fb-0", "fb-1", "fb-3"}),
    ],
)
def test_the_filter_takes_what_it_says(fields: dict[str, object], taken: set[str]) -> None:
    """Time, version, rater and labels, each by itself; frozen at the first minute, ``last`` 0 takes what is not older."""
    feedback = [
        said(0, "one", rater="ann", version=1),
        said(1, "two", rater="bob", version=2, labels=("maths",)),
        said(2, "three", version=1, labels=("maths", "easy")),
        said(3, "four"),
    ]
    snapshot = frozen(feedback, **fields)
    assert sources(snapshot) == taken
    assert snapshot.counts["feedback"] == len(taken)
    assert snapshot.filter is not None
    assert snapshot.filter.last is None


def test_balance_takes_as_many_of_each() -> None:
    """Good and bad, or each label, alike in number; where a class is rare, no less than a run needs."""
    told = [
        said(number, f"question {number}", rating=float(number % 4 != 0), labels=("xyy"[number % 3],))
        for number in range(400)
    ]

    def counted(**fields: object) -> Counter[str]:
        snapshot = frozen(told, limit=1000, **fields)
        both = (*snapshot.search, *snapshot.confirm)
        return Counter(item.labels[0] if fields["balance"] == "label" else str(item.bad is None) for item in both)

    assert counted(balance="good_bad") == {"True": 100, "False": 100}
    assert counted(balance="label") == {"x": 134, "y": 134}
    rare = [one.model_copy(update={"rating": 1.0}) if number > 7 else one for number, one in enumerate(told)]
    snapshot = frozen(rare, balance="good_bad")
    assert len(snapshot.search) + len(snapshot.confirm) == FEWEST


def test_limits_hold() -> None:
    """No half has more than its limit; what is over is left out, and counted."""
    told = [said(number, f"question {number}", rater=f"r{number % 40}") for number in range(1000)]
    snapshot = frozen(told, limit=100, confirm=150)
    assert len(snapshot.search) <= 100
    assert len(snapshot.search) >= 76  # 25 of each rater: a rater is searched on whole, or not
    assert len(snapshot.confirm) == 150
    assert snapshot.counts["over_limits"] == 1000 - len(snapshot.search) - 150
    assert leaks(snapshot, told) == set()


ELSEWHERE = """
import random, sys
sys.path.insert(0, {root!r})
from tests.unit.test_snapshot_leaks import crowd, frozen
feedback = crowd(random.Random(5), 20, 8, anonymous=10)
random.Random(6).shuffle(feedback)
print(frozen(feedback, seed=3, balance="label").digest)
"""


def test_another_process_gives_the_same_digest() -> None:
    """Nothing depends on how a process hashes its strings, on the order of arrival, or on when it is frozen."""
    here = frozen(crowd(random.Random(5), 20, 8, anonymous=10), seed=3, balance="label")
    for hashing in ("0", "1"):
        environment = {"PYTHONHASHSEED": hashing, "PYTHONPATH": str(ROOT)}
        told = subprocess.run(
            [sys.executable, "-c", ELSEWHERE.format(root=str(ROOT))],
            env=environment,
            capture_output=True,
            check=True,
            text=True,
        )
        assert told.stdout.strip() == here.digest
    later = freeze("bot", crowd(random.Random(5), 20, 8, anonymous=10), limit_search=200, seed=3,
                   at=AT + timedelta(days=400), chosen=SnapshotFilter(balance="label"))  # fmt: skip
    assert later.digest == here.digest
    assert frozen(crowd(random.Random(5), 20, 8, anonymous=10), seed=4, balance="label").digest != here.digest


def test_a_snapshot_is_read_as_it_was_frozen() -> None:
    """What is stored gives the same record under the same name; one of schema 1 reads, with its own time."""
    snapshot = frozen(crowd(random.Random(5), 20, 8))
    again = read(lambda name: content(snapshot), snapshot.digest)
    assert again == snapshot.model_copy(update={"frozen_at": None})

    item = {
        "digest": "sha256:" + "2" * 64,
        "messages": None,
        "prompt": "q",
        "good": "a",
        "bad": None,
        "checkable": True,
    }
    old = {"digest": "sha256:" + "1" * 64, "adapter": "bot", "frozen_at": "2025-01-01T00:00:00Z", "schema_number": 1}
    old |= {"search": [item], "confirm": []}
    name = "sha256:" + "3" * 64
    first = read(lambda name: old, name)
    assert (first.digest, first.filter, first.seed, first.search[0].sources) == (name, None, None, ())
    assert first.frozen_at == datetime(2025, 1, 1, tzinfo=UTC)
