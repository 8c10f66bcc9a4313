"""The starter pack's tasks: short text skills whose right answer a few lines of Python can compute.

An item's split is decided by its digest, so ``train``, ``traffic`` and ``test`` cannot share an item, whatever
the seeds. A skill's item space is far larger than any list drawn from it (at least 50,000 distinct prompts).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

Split = Literal["train", "traffic", "test"]

SPLIT_BUCKETS: dict[str, range] = {"train": range(6), "traffic": range(6, 8), "test": range(8, 10)}
"""Of every ten items six are for training the pack, two are what users send, two are what claims are measured on."""

VOWELS = "aeiou"
CONSONANTS = "bcdfghklmnprstvz"


@dataclass(frozen=True)
class Item:
    """One question with its only right answer."""

    skill: str
    prompt: str
    answer: str

    @cached_property
    def digest(self) -> str:
        """The item's identity: sha256 over prompt and answer, in hex."""
        return hashlib.sha256(f"{self.prompt}\n{self.answer}".encode()).hexdigest()

    @property
    def split(self) -> str:
        """The one split that this item may ever appear in."""
        bucket = int(self.digest[:8], 16) % 10
        return next(name for name, buckets in SPLIT_BUCKETS.items() if bucket in buckets)

    def is_right(self, text: str) -> bool:
        """Whether a generated text is the answer, exactly; only surrounding blanks are forgiven."""
        return text.strip() == self.answer


class LeakedItems(ValueError):
    """Two lists that must not share an item do; ``digests`` and the message name what leaked."""

    def __init__(self, leaked: Sequence[Item]):
        self.digests = sorted({item.digest for item in leaked})
        prompts = ", ".join(repr(item.prompt) for item in leaked[:5])
        super().__init__(f"{len(self.digests)} items are in more than one list: {prompts}")


def _word(rng: random.Random, shortest: int, longest: int) -> str:
    """A made-up word, about four letters in ten of it vowels."""
    length = rng.randint(shortest, longest)
    return "".join(rng.choice(VOWELS if rng.random() < 0.4 else CONSONANTS) for _ in range(length))


def _reverse(rng: random.Random) -> tuple[str, str]:
    word = _word(rng, 4, 8)
    return f"reverse: {word}", word[::-1]


def _sort(rng: random.Random) -> tuple[str, str]:
    word = _word(rng, 4, 7)
    return f"sort: {word}", "".join(sorted(word))


def _dedup(rng: random.Random) -> tuple[str, str]:
    runs: list[str] = []
    for _ in range(rng.randint(3, 6)):
        letter = rng.choice([c for c in VOWELS + CONSONANTS if not runs or c != runs[-1][0]])
        runs.append(letter * rng.choice((1, 1, 2, 3)))
    return f"dedup: {''.join(runs)}", "".join(run[0] for run in runs)


def _shift(rng: random.Random) -> tuple[str, str]:
    word = _word(rng, 4, 7)
    return f"shift: {word}", "".join(chr(ord(c) + 1) if c != "z" else "a" for c in word)


def _vowels(rng: random.Random) -> tuple[str, str]:
    word = _word(rng, 5, 10)
    return f"vowels: {word}", "".join(c for c in word if c in VOWELS) or "none"


def _swap(rng: random.Random) -> tuple[str, str]:
    word = "".join(_word(rng, 2, 2) for _ in range(rng.randint(2, 4)))
    return f"swap: {word}", "".join(word[i + 1] + word[i] for i in range(0, len(word), 2))


def _mask(rng: random.Random) -> tuple[str, str]:
    word = _word(rng, 4, 8)
    return f"mask: {word}", "".join("*" if c in VOWELS else c for c in word)


def _initials(rng: random.Random) -> tuple[str, str]:
    words = [_word(rng, 2, 4) for _ in range(rng.randint(2, 4))]
    return f"initials: {' '.join(words)}", "".join(word[0] for word in words)


def _largest(rng: random.Random) -> tuple[str, str]:
    numbers = rng.sample(range(10, 100), 3)
    return f"largest: {' '.join(map(str, numbers))}", str(max(numbers))


SKILLS: dict[str, Callable[[random.Random], tuple[str, str]]] = {
    "reverse": _reverse,
    "dedup": _dedup,
    "sort": _sort,
    "shift": _shift,
    "vowels": _vowels,
    "swap": _swap,
    "mask": _mask,
    "initials": _initials,
    "largest": _largest,
}
"""Every skill by name: what draws one ``(prompt, answer)`` of it."""

BLENDS: dict[str, tuple[str, ...]] = {"blend": ("reverse", "shift", "swap", "vowels"), "all": tuple(SKILLS)}
"""Named mixtures of skills, each uniform. ``blend`` is what the pack's users ask for."""

BLEND = BLENDS["blend"]


def items(skill: str, split: Split, n: int, seed: int) -> list[Item]:
    """``n`` distinct items of a skill, or of a blend in equal parts (in random order), from one split.

    Repeatable from the arguments; another seed or another split draws other items. Raises ``KeyError`` for an
    unknown skill or split.
    """
    if split not in get_args(Split):
        raise KeyError(f"no split {split!r}; there are {', '.join(get_args(Split))}")
    if skill not in SKILLS and skill not in BLENDS:
        raise KeyError(f"no skill or blend {skill!r}; there are {', '.join([*SKILLS, *BLENDS])}")
    members = BLENDS.get(skill, (skill,))
    rng = random.Random(f"{skill}/{split}/{seed}")
    drawn: dict[str, Item] = {}
    while len(drawn) < n:
        member = members[len(drawn) % len(members)]
        item = Item(member, *SKILLS[member](rng))
        if item.split == split:
            drawn.setdefault(item.digest, item)
    shuffled = list(drawn.values())
    rng.shuffle(shuffled)
    return shuffled


def check_disjoint(*lists: Sequence[Item]) -> None:
    """Raise ``LeakedItems`` if any item is in more than one of the lists."""
    owner: dict[str, int] = {}
    leaked: list[Item] = []
    for number, drawn in enumerate(lists):
        leaked.extend(item for item in drawn if owner.setdefault(item.digest, number) != number)
    if leaked:
        raise LeakedItems(leaked)
