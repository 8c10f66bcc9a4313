"""Splits share no item, repeat from their seed, and a leak names what leaked."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm_worker.splits import LeakedItems, Splits, check_disjoint, content_hash, select_and_gate, split
from swarm_worker.utilities.utility import Item

POOL = [Item(prompt=f"question {n}", good=str(n)) for n in range(40)]


@settings(max_examples=30, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, 99))
def test_splits_depend_on_content_sizes_and_seed_only(random, seed: int) -> None:
    """However the pool is ordered or repeated, the same items land in the same lists, disjoint and of the sizes asked for."""
    shuffled = POOL + POOL[:7]
    random.shuffle(shuffled)
    drawn = split(shuffled, search=20, confirm=9, test=5, seed=seed)
    assert drawn == split(POOL, search=20, confirm=9, test=5, seed=seed)
    lists = (drawn.search, drawn.confirm, drawn.test)
    assert [len(items) for items in lists] == [20, 9, 5]
    assert len({item.digest for items in lists for item in items}) == 34


def test_another_seed_draws_other_items() -> None:
    """And more items for search leave those that search had where they were."""
    first = split(POOL, search=10, confirm=10, seed=1)
    assert [i.good for i in first.search] != [i.good for i in split(POOL, search=10, confirm=10, seed=2).search]
    assert split(POOL, search=15, seed=1).search[:10] == first.search


def test_what_makes_two_items_the_same() -> None:
    """Question and right answer in words: blanks, labels, wrong options and the task do not make another item."""
    choices = {"A": "Paris", "B": "Rome"}
    item = Item(prompt="capital of Italy?", choices=choices, good="B")
    same = [
        Item(prompt=" capital  of Italy?\n", choices={"A": "Rome", "B": "Oslo", "C": "Bern"}, good="A", task="t"),
        Item(prompt="capital of Italy?", good="Rome"),
    ]
    assert {content_hash(other) for other in same} == {content_hash(item)}
    other = Item(prompt="capital of Italy?", choices=choices, good="A")
    assert content_hash(other) != content_hash(item)
    assert content_hash(other, by="question") == content_hash(item, by="question")
    chat = Item(messages=[{"role": "user", "content": "capital of Italy?"}], good="Rome")
    assert content_hash(chat) != content_hash(item)
    with pytest.raises(ValueError, match="by must be one of item, question"):
        content_hash(item, by="answer")


def test_a_leak_names_items_and_lists() -> None:
    """The error has every leaked item's hash with the lists it is in, and shows the first questions."""
    lists = {"search": POOL[:5], "confirm": POOL[4:9], "test": [*POOL[20:], POOL[4], POOL[0]]}
    with pytest.raises(LeakedItems, match=r"2 items .* search and test: 'question 0'") as caught:
        check_disjoint(lists)
    assert caught.value.leaked == {
        content_hash(POOL[4]): ("search", "confirm", "test"),
        content_hash(POOL[0]): ("search", "test"),
    }
    check_disjoint({"search": [*POOL[:5], POOL[0]], "test": POOL[5:]})  # a repeat within a list is no leak


def test_splits_cannot_leak() -> None:
    """Whoever makes one by hand is checked too; by question, another answer to the same question is a leak."""
    again = Item(prompt="question 0", good="another")
    Splits(search=(POOL[0],), test=(again,))
    with pytest.raises(LeakedItems, match="search and test"):
        Splits(search=(POOL[0],), test=(again,), by="question")
    with pytest.raises(LeakedItems, match="search and confirm"):
        Splits(search=(POOL[0],), confirm=(POOL[0],))


def test_by_question_each_question_is_drawn_once() -> None:
    """Of several items that ask the same, one is in the splits."""
    pool = [Item(prompt=f"question {n % 5}", good=str(n)) for n in range(20)]
    drawn = split(pool, search=3, test=2, by="question")
    assert len({item.prompt for item in drawn.search + drawn.test}) == 5
    with pytest.raises(ValueError, match=r"5 different items \(20 in the pool\) are too few for 4 to search"):
        split(pool, search=4, test=2, by="question")


def test_impossible_sizes_are_refused() -> None:
    """More than there are, none to search on, or fewer than none."""
    with pytest.raises(ValueError, match=r"40 different items .* 30 to search, 20 to confirm, 0 to test"):
        split(POOL, search=30, confirm=20)
    with pytest.raises(ValueError, match="search must be 1 or more"):
        split(POOL, search=0)
    with pytest.raises(ValueError, match="test must be 0 or more items, not -1"):
        split(POOL, search=1, test=-1)


def test_several_finalists_need_confirm_in_two() -> None:
    """What selects one of them is not what the gate then measures it on; both parts repeat from the seed."""
    select, gate = select_and_gate(POOL, seed=3)
    assert (len(select), len(gate)) == (20, 20)
    check_disjoint({"select": select, "gate": gate})
    assert select_and_gate(POOL[::-1], seed=3) == (select, gate)
    assert [len(part) for part in select_and_gate(POOL, select=5)] == [5, 35]
    for items, size in ((POOL, 0), (POOL, 40), (POOL[:1], None)):
        with pytest.raises(ValueError, match="items on both sides"):
            select_and_gate(items, select=size)
