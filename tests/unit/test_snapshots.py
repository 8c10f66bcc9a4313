"""Feedback frozen for a run: what becomes an item, and that no prompt is in both halves."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry import snapshots
from registry.errors import BadInput
from registry.halves import Halves, split
from registry.records import Feedback, Message, Snapshot, SnapshotItem
from registry.snapshot_items import by_prompt, item_digest
from registry.snapshots import check_disjoint, freeze

AT = datetime(2026, 1, 1, tzinfo=UTC)


def said(prompt: str, *, id_: str = "", rater: str = "anonymous", minute: int = 0, **fields: object) -> Feedback:
    at = AT + timedelta(minutes=minute)
    return Feedback(id=id_ or f"{prompt}-{rater}-{minute}", adapter="bot", prompt=prompt, rater=rater, at=at, **fields)


def frozen(*feedbacks: Feedback, limit: int = 1000, seed: int = 0) -> Snapshot:
    return freeze("bot", feedbacks, limit_search=limit, seed=seed, at=AT)


def only(*feedbacks: Feedback) -> SnapshotItem:
    snapshot = frozen(*feedbacks)
    (item,) = (*snapshot.search, *snapshot.confirm)
    return item


@pytest.mark.parametrize(
    ("fields", "good", "bad", "checkable"),
    [
        ({"answer": "4", "correction": "5"}, "5", "4", True),
        ({"answer": " 5\n", "correction": "5"}, "5", None, True),
        ({"correction": "5"}, "5", None, True),
        ({"answer": "4", "rating": 1.0}, "4", None, True),
        ({"answer": "4", "rating": 0.51}, "4", None, True),
        ({"answer": "4", "rating": 0.0}, None, "4", False),
        ({"preferred": "a", "rejected": "b"}, "a", "b", False),
        ({"preferred": "a"}, "a", None, False),
        ({"answer": "4", "rating": 0.0, "correction": "5"}, "5", "4", True),
    ],
)
def test_what_feedback_says(fields: dict, good: str | None, bad: str | None, checkable: bool) -> None:
    """A correction, a rating and a pair each become what was good, what was bad, and whether good can be checked."""
    item = only(said("2+2", **fields))
    assert (item.good, item.bad, item.checkable) == (good, bad, checkable)
    assert item.digest == item_digest(None, "2+2")


def test_who_accepts_and_corrects_is_told_from_who_does_one_of_both() -> None:
    """An item is two-sided where one of those who decided it accepts some answers and corrects others."""
    snapshot = frozen(
        said("1", rater="both", answer="a", rating=1.0),
        said("2", rater="both", answer="a", correction="b"),
        said("3", rater="same", answer="a", correction="a"),
        said("4", rater="same", answer="a", correction="b"),
        said("5", rater="rates", answer="a", rating=1.0),
        said("6", rater="rates", answer="a", rating=0.0),
        said("7", rater="corrects", answer="a", correction="b"),
        said("8", rater="rates", answer="a", rating=1.0),
        said("8", rater="both", answer="a", rating=1.0),
    )
    told = {item.prompt: item.two_sided for item in (*snapshot.search, *snapshot.confirm)}
    assert told == {str(n): n in (1, 2, 3, 4, 8) for n in range(1, 9)}


@pytest.mark.parametrize("fields", [{"answer": "4", "rating": 0.5}, {"answer": "4"}, {"rating": 1.0}, {}])
def test_what_says_nothing_is_left_out(fields: dict) -> None:
    """A middling rating, or a rating of no known answer, is no item."""
    snapshot = frozen(said("2+2", **fields))
    assert snapshot.search == snapshot.confirm == ()


def test_a_rater_may_change_their_mind() -> None:
    """Of one rater's feedback on one prompt the latest counts; another rater's stays beside it, and so does everybody's who
    gives no name: one of them alone overrules nobody."""
    first, later = (
        said("q", rater="ann", answer="a", rating=rating, minute=5 * (1 - int(rating))) for rating in (1.0, 0.0)
    )
    assert only(later, first).bad == "a"
    assert only(later, first).good is None
    assert only(first, said("q", rater="bob", answer="b", rating=0.0)).bad == "b"
    nameless = [said("q", answer="a", rating=1.0, minute=minute) for minute in range(3)]
    assert only(*nameless, said("q", answer="a", rating=0.0, minute=9)).good == "a"


@pytest.mark.parametrize(
    ("first", "later", "good", "bad"),
    [
        ({"correction": "b"}, {"rating": 0.0}, "b", "a"),
        ({"rating": 0.0}, {"correction": "b"}, "b", "a"),
        ({"rating": 1.0}, {"correction": "b"}, "b", "a"),
        ({"correction": "b", "rating": 0.0}, {"rating": 0.25, "stars": 2}, "b", "a"),
        ({"preferred": "b", "rejected": "a"}, {"rating": 0.0}, "b", "a"),
        ({"correction": "b"}, {"correction": "c"}, "c", "a"),
        ({"correction": "b"}, {"rating": 1.0}, "a", None),
        ({"correction": "a"}, {"rating": 0.0}, None, "a"),
        ({"correction": "b"}, {"rating": 0.5}, "b", "a"),
    ],
)
def test_a_rater_says_one_thing_after_the_other(
    first: dict[str, Any], later: dict[str, Any], good: str | None, bad: str | None
) -> None:
    """A correction and a thumb of the same answer stand beside each other, whichever comes first; what denies takes back."""
    told = [
        said("q", id_=f"f{minute}", rater="ann", minute=minute, answer="a", request_id="r1", **fields)
        for minute, fields in enumerate((first, later))
    ]
    for order in (told, told[::-1]):
        assert (only(*order).good, only(*order).bad) == (good, bad)


def test_who_corrects_and_rates_has_one_voice() -> None:
    """Against one who finds the answer good, both together are one who does not."""
    both = [
        said("q", rater="ann", answer="a", correction="b"),
        said("q", rater="ann", answer="a", rating=0.0, minute=1),
    ]
    pleased = [said("q", id_=f"up{n}", rater=f"up{n}", answer="a", rating=1.0) for n in range(2)]
    assert only(*both, *pleased).good == "a"


def test_of_another_answer_a_rater_speaks_anew() -> None:
    """What they said of the one before is no longer asked."""
    before = said("q", rater="ann", answer="a", correction="b")
    item = only(before, said("q", rater="ann", answer="c", rating=1.0, minute=1))
    assert (item.good, item.bad) == ("c", None)


def test_one_item_a_prompt() -> None:
    """Feedback on one prompt is merged: a correction before a pair before a rating, and bad differs from good."""
    item = only(
        said("q", rater="a", answer="x", rating=1.0, minute=9),
        said("q", rater="b", answer="y", correction="z", minute=1),
        said("q", rater="c", answer="z", rating=0.0, minute=8),
        said("q", rater="d", preferred="p", rejected="r", minute=7),
    )
    assert (item.good, item.bad, item.checkable) == ("z", "y", True)
    assert item.sources == ("q-b-1",)


def test_raters_of_one_answer_count_together() -> None:
    """Who is alone against most is overruled, with a rating or with a correction; two who contradict each other say nothing."""
    up, down = said("q", rater="a", answer="x", rating=1.0), said("q", rater="b", answer="x", rating=0.0)
    also = said("q", rater="c", answer="x", rating=1.0)
    corrects = said("q", rater="d", answer="x", correction="y")

    assert frozen(up, down).search == frozen(up, down).confirm == ()
    assert (only(up, down, also).good, only(up, down, also).bad) == ("x", None)
    assert (only(up, also, corrects).good, only(up, also, corrects).bad) == ("x", None)
    assert (only(up, corrects).good, only(up, corrects).bad) == ("y", "x")
    assert only(up, down, also).sources == ("q-a-0", "q-c-0")


def test_most_say_what_was_right() -> None:
    """Of corrections that differ that of most raters stands, then the latest."""
    first, second = said("q", rater="a", correction="1"), said("q", rater="b", correction="1", minute=1)
    late = said("q", rater="c", correction="2", minute=9)
    assert only(first, second, late).good == "1"
    assert only(first, late).good == "2"


def test_messages_are_a_prompt_too() -> None:
    """A chat is one prompt; the same words as a plain prompt are another."""
    chat = (Message(role="user", content="q"),)
    feedback = Feedback(id="1", adapter="bot", messages=chat, answer="a", rating=1.0, at=AT)
    item = only(feedback)
    assert (item.messages, item.prompt) == (chat, None)
    assert item.digest == item_digest(chat, None) != item_digest(None, "q")


FEEDBACKS = st.lists(
    st.builds(
        lambda prompt, rater, minute, kind, text: said(
            f"q{prompt}", id_=f"{prompt}-{rater}-{minute}-{kind}-{text}", rater=rater, minute=minute, **{kind: text},
            answer="same" if kind != "answer" else text, rating=minute % 3 / 2,
        ),
        st.integers(0, 20),
        st.sampled_from(["ann", "bob"]),
        st.integers(0, 6),
        st.sampled_from(["correction", "preferred", "comment"]),
        st.sampled_from(["a", "b", "same"]),
    ),
    max_size=60,
)  # fmt: skip


@settings(deadline=None)  # a busy machine is no defect
@given(FEEDBACKS, st.integers(0, 3), st.integers(1, 12), st.randoms(use_true_random=False))
def test_what_holds_for_any_feedback(feedbacks: list[Feedback], seed: int, limit: int, rng: random.Random) -> None:
    """No prompt twice, none in both halves, never more than the limit; order of arrival does not matter."""
    snapshot = freeze("bot", feedbacks, limit_search=limit, seed=seed, at=AT)
    shuffled = rng.sample(feedbacks, len(feedbacks))

    assert freeze("bot", shuffled, limit_search=limit, seed=seed, at=AT) == snapshot
    digests = [item.digest for item in (*snapshot.search, *snapshot.confirm)]
    assert len(set(digests)) == len(digests)
    assert len(snapshot.search) <= limit
    check_disjoint(snapshot)
    for item in (*snapshot.search, *snapshot.confirm):
        assert item.good is not None or item.bad is not None
        assert item.good is None or item.bad is None or item.good.strip() != item.bad.strip()


def many(count: int) -> list[Feedback]:
    return [said(f"q{index}", answer="a", rating=1.0) for index in range(count)]


def test_halves_of_anonymous_feedback_are_about_equal_and_drawn_by_seed() -> None:
    """Of many items about half are searched on; another seed draws others; the cap sends the rest to confirm."""
    snapshot = frozen(*many(1000))
    assert 430 < len(snapshot.search) < 570
    assert frozen(*many(1000), seed=1).search != snapshot.search
    capped = frozen(*many(1000), limit=100)
    assert (len(capped.search), len(capped.confirm)) == (100, 900)
    assert capped.search == snapshot.search[:100]


def test_later_feedback_moves_no_item_across() -> None:
    """An item stays in its half while feedback on other prompts comes in."""
    before, after = frozen(*many(100)), frozen(*many(300))
    assert {item.digest for item in before.search} <= {item.digest for item in after.search}
    assert before.digest != after.digest


def test_a_leak_between_the_halves_is_named() -> None:
    """A snapshot with a prompt in both halves is refused, and says which."""
    snapshot = frozen(*many(10))
    leaking = snapshot.model_copy(update={"confirm": (*snapshot.confirm, snapshot.search[0])})
    with pytest.raises(BadInput) as refused:
        check_disjoint(leaking)
    assert refused.value.details["items"] == [snapshot.search[0].digest]


def test_words_alone_take_back_no_rating_and_no_key_speaks_over_another() -> None:
    """A comment or labels that follow a rating leave it as it is; the same name under another key is another rater."""
    rated = said("q", id_="f1", rater="ann", answer="a", rating=1.0, by="key-1")
    words = said("q", id_="f2", rater="ann", minute=1, answer="a", comment="hm", by="key-1")
    other = said("q", id_="f3", rater="ann", minute=2, answer="b", rating=0.0, by="key-2")
    assert by_prompt([rated, words]) == {item_digest(rated.messages, rated.prompt): [rated]}
    assert by_prompt([rated, other]) == {item_digest(rated.messages, rated.prompt): [rated, other]}


def test_a_cap_is_found_in_few_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search half of few raters may need a cap far below what it would allow: caps above the busiest rater are not tried."""
    splits = 0

    def counting(*given: Any, **named: Any) -> Halves:
        nonlocal splits
        splits += 1
        return split(*given, **named)

    monkeypatch.setattr(snapshots, "split", counting)
    asks = {f"r{number}": 4 + 3 * (number % 5) + 4 * (number % 5 == 4) for number in range(40)}
    asked = (said(f"{rater} {n}", rater=rater, answer="a", rating=1.0) for rater in asks for n in range(asks[rater]))
    snapshot = frozen(*asked, limit=50)
    assert (snapshot.rater_cap, snapshot.cap_held) == (13, True)
    assert splits <= 12  # 20 is the busiest rater's; from what the halves allow it would be 75
