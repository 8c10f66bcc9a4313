"""Which prompts say nearly the same: Jaccard similarity of their word shingles, computed exactly. Pure.

Shingling: Broder (1997), "On the resemblance and containment of documents"; a threshold of .8 as in Lee et al.
(arXiv:2107.06499), who deduplicated language models' training data. All pairs above the threshold are found by the prefix
filter of Chaudhuri et al. (2006) and Bayardo et al. (2007), section 4: two sets that are similar share one of their rarest
shingles. So nothing is drawn at random and nothing missed, and no MinHash is needed at the size of a feedback log.

Two chats are near when their last messages are and what went before them is; system messages do not count. Prompts with
different numbers are different questions. A shingle that many prompts share belongs to a template, which says nothing of
whether two questions are the same: it does not count, and prompts that hold nothing else are near only if they are equal.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from registry.records import SnapshotItem

WORDS = 3
"""Words of a shingle. Lee et al. take five, of documents; questions are shorter."""
_WORD = re.compile(r"\w+|[^\w\s.,;:!?'\"\u2018\u2019\u201c\u201d\u2026]")
_Words = tuple[str, ...]
_Shingle = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Text:
    """A prompt in words: its last message, and what went before."""

    question: _Words
    context: _Words

    @property
    def numbers(self) -> _Words:
        words = (*self.question, *self.context)
        return tuple(sorted(word for word in words if any(letter.isdigit() for letter in word)))


def near_pairs(items: Sequence[SnapshotItem], at: float) -> list[tuple[int, int]]:
    """The places of items that say nearly the same, each pair once, lower place first.

    Of items that are equal but for case, blanks and punctuation only each with the first is told, and only the first is
    compared with others: whoever needs groups follows the pairs.
    """
    equal: dict[_Text, list[int]] = defaultdict(list)
    for place, item in enumerate(items):
        equal[_text(item)].append(place)
    pairs = [(places[0], other) for places in equal.values() for other in places[1:]]
    firsts = [(text, places[0]) for text, places in equal.items()]
    common = _template([text for text, _ in firsts])
    alike: dict[_Words, list[tuple[_Text, int]]] = defaultdict(list)
    for text, place in firsts:
        alike[text.numbers].append((text, place))
    for group in alike.values():
        pairs += [(min(a, b), max(a, b)) for a, b in _joined(group, common, at)]
    return sorted(pairs)


def _joined(group: Sequence[tuple[_Text, int]], common: frozenset[_Shingle], at: float) -> Iterator[tuple[int, int]]:
    """The similar pairs of prompts whose numbers are the same."""
    if len(group) < 2:
        return
    sets = [_shingles(text.question) - common for text, _ in group]
    rarity = Counter(shingle for one in sets for shingle in one)
    index: dict[_Shingle, list[int]] = defaultdict(list)
    for number, one in enumerate(sets):
        ordered = sorted(one, key=lambda shingle: (rarity[shingle], shingle))
        prefix = ordered[: len(one) - math.ceil(at * len(one) - 1e-9) + 1]
        for other in sorted({found for shingle in prefix for found in index[shingle]}):
            both = (group[other][0].context, group[number][0].context)
            if _similar(sets[other], one, at) and _similar(_shingles(both[0]), _shingles(both[1]), at):
                yield group[other][1], group[number][1]
        for shingle in prefix:
            index[shingle].append(number)


def _template(texts: Sequence[_Text]) -> frozenset[_Shingle]:
    """Shingles of more than a fifth of the different prompts, twenty at the least and a hundred at the most.

    The hundred bounds the work: no shingle leads to more prompts than that.
    """
    most = min(max(20, len(texts) // 5), 100)
    held = Counter(shingle for text in texts for shingle in _shingles(text.question))
    return frozenset(shingle for shingle, count in held.items() if count > most)


def _similar(one: frozenset[_Shingle], other: frozenset[_Shingle], at: float) -> bool:
    if not one and not other:
        return True
    shared = len(one & other)
    return shared >= at * (len(one) + len(other) - shared)


def _shingles(words: _Words) -> frozenset[_Shingle]:
    if not words:
        return frozenset()
    return frozenset(words[start : start + WORDS] for start in range(max(1, len(words) - WORDS + 1)))


def _text(item: SnapshotItem) -> _Text:
    if not item.messages:
        return _Text(_words([item.prompt or ""]), ())
    spoken = [message for message in item.messages if message.role != "system"] or list(item.messages)
    return _Text(_words([spoken[-1].content]), _words(message.content for message in spoken[:-1]))


def _words(texts: Iterable[str]) -> _Words:
    """Words in one case; of a text without any, the text."""
    found: list[str] = []
    for text in texts:
        found += _WORD.findall(unicodedata.normalize("NFKC", text).casefold()) or [text.strip()]
    return tuple(found)
