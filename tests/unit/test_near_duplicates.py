"""Which prompts say nearly the same, against the definition computed pair by pair."""

from __future__ import annotations

import itertools
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from registry.near_duplicates import near_pairs
from registry.records import Message, SnapshotItem
from registry.snapshot_items import item_digest

LONG = (
    "please write a friendly letter to my neighbour about the hedge between our gardens which has grown so tall that it "
    "takes the light from the kitchen window and ask whether we could share the cost of a gardener in spring"
)


def item(prompt: str) -> SnapshotItem:
    return SnapshotItem(digest=item_digest(None, prompt), prompt=prompt, good="x")


def chat(*said: str, system: str | None = None) -> SnapshotItem:
    roles = itertools.cycle(("user", "assistant"))
    messages = [Message(role="system", content=system)] if system else []
    messages += [Message(role=role, content=content) for role, content in zip(roles, said, strict=False)]
    return SnapshotItem(digest=item_digest(messages, None), messages=tuple(messages), good="x")


def near(*items: SnapshotItem, at: float = 0.8) -> bool:
    return near_pairs(items, at) == [(0, 1)]


def test_what_repeats_and_what_does_not() -> None:
    """Case, blanks and punctuation do not count, nor one word in forty; another number or another short question does."""
    assert near(item("What is a hull?"), item("  what is a   HULL"))
    assert near(item(LONG), item(LONG.replace("friendly", "kind")))
    assert not near(item(LONG), item(LONG.replace("friendly", "kind")), at=0.9)
    assert not near(item(f"{LONG} in 2025"), item(f"{LONG} in 2026"))
    assert not near(item("2+2"), item("2-2"))
    assert not near(item("reverse: abc"), item("reverse: abd"))
    assert not near(item("What is a hull?"), item("What is a particle?"))
    assert near(item("???"), item("???  "))
    assert not near(item("???"), item("***"))


def test_of_chats_the_last_message_and_what_went_before_count() -> None:
    """A common system message makes nothing alike; a common last message does not, where another talk led to it."""
    assert not near(chat("What is a hull?", system=LONG), chat("What is a particle?", system=LONG))
    assert near(chat("What is a hull?", system=LONG), chat("what is a hull", system="Be brief."))
    assert not near(chat("Tell me of hulls", "They span.", "go on"), chat("Sing me a song", "La la.", "go on"))
    assert near(chat("Tell me of hulls", "They span.", "go on"), chat("tell me of hulls!", "They span.", "Go on."))


def test_a_template_makes_nothing_alike() -> None:
    """Prompts that share a long frame and differ in a few words are different questions, if there are many of them."""
    words = [f"{first}{second} {second}{first} {first}" for first, second in itertools.permutations("abcdefgh", 2)]
    framed = [item(f"{LONG}: {word}") for word in words]
    assert len(framed) > 50
    assert near_pairs(framed, 0.8) == []
    assert near_pairs([*framed, item(f"{LONG}: {words[3].upper()}!")], 0.8) == [(3, len(framed))]


def shingles(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[start : start + 3]) for start in range(max(1, len(words) - 2))}


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from([0.3, 0.5, 0.7, 0.8, 1.0]))
def test_every_pair_is_found_and_no_other(seed: int, at: float) -> None:
    """The prefix filter misses nothing: the pairs are those whose Jaccard similarity is at least the threshold."""
    rng = random.Random(seed)
    texts: list[str] = []
    for _ in range(12):
        words = rng.choices("abcdefghij", k=rng.randint(1, 14))
        for _ in range(rng.randint(1, 2)):
            words[rng.randrange(len(words))] = rng.choice("abcdefghij")
            texts.append(" ".join(words))
    texts = list(dict.fromkeys(texts))

    def jaccard(one: str, other: str) -> float:
        a, b = shingles(one), shingles(other)
        return len(a & b) / len(a | b)

    expected = [
        (one, other) for one, other in itertools.combinations(range(len(texts)), 2)
        if jaccard(texts[one], texts[other]) >= at - 1e-12
    ]  # fmt: skip
    assert near_pairs([item(text) for text in texts], at) == expected
