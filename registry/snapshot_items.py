"""What raters said of one prompt, as one item, and who decided it. Pure.

Of several feedbacks by one rater (one name under one API key) on one prompt the latest counts (by time, then id); who gives no
name is another at every request. A comment or labels alone replace nothing. A correction is good, and the answer
it corrects is bad if it differs; an answer rated above .5 is good, below .5 bad, at .5 says nothing; of a pair the preferred
is good and the rejected bad. Raters of the same answer count together, by their mean (a correction that differs is a 0): who
is alone against most is overruled, and two who contradict each other say nothing. Of what is then held to be good the
strongest kind stands (correction, then pair, then rating), of that kind what most raters say, of that the latest; and
likewise of the bad, which must differ from the good. ``checkable``: the good is a correction or an answer rated up.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from registry.canonical import digest
from registry.records import ANONYMOUS, Feedback, Message, SnapshotItem

_RATED, _PAIRED, _CORRECTED = 1, 2, 3
_Claim = tuple[Literal["good", "bad"], int, str]  # which side, how strong a kind, the answer


@dataclass(frozen=True)
class Drafted:
    """An item and the feedback that decided it, oldest first."""

    item: SnapshotItem
    deciding: tuple[Feedback, ...]

    @cached_property
    def raters(self) -> frozenset[str]:
        """The identified ones of those who decided it."""
        return frozenset(one.rater for one in self.deciding if one.rater != ANONYMOUS)

    @property
    def weight(self) -> float:
        """What one of its raters has of the item: those who agree share it."""
        return 1 / (len(self.raters) + any(one.rater == ANONYMOUS for one in self.deciding))


def two_sided(feedbacks: Iterable[Feedback]) -> frozenset[str]:
    """The raters who both accept answers and correct some: those who give no name are one here."""
    accepting, correcting = set(), set()
    for one in feedbacks:
        said = None if one.correction is None else one.correction.strip()
        if said is not None and said != (one.answer or "").strip():
            correcting.add(one.rater)
        elif said is not None or (one.rating is not None and one.rating > 0.5):
            accepting.add(one.rater)
    return frozenset(accepting & correcting)


def most_of_one(drafts: Iterable[Drafted]) -> float:
    """The items that are the busiest rater's."""
    held: defaultdict[str, float] = defaultdict(float)
    for draft in drafts:
        for rater in draft.raters:
            held[rater] += draft.weight
    return max(held.values(), default=0.0)


def item_digest(messages: Sequence[Message] | None, prompt: str | None) -> str:
    """The name of a prompt: sha256 over the canonical JSON of ``{"messages": [...]}`` or ``{"prompt": ...}``."""
    if messages:
        return digest({"messages": [message.model_dump(mode="json") for message in messages]})
    return digest({"prompt": prompt})


def by_prompt(feedbacks: Iterable[Feedback]) -> dict[str, list[Feedback]]:
    """The prompts by their names, each with its raters' latest feedback, oldest first."""
    prompts: dict[str, dict[tuple[str, str, str], Feedback]] = defaultdict(dict)
    for feedback in sorted(feedbacks, key=lambda feedback: (feedback.at, feedback.id)):
        judges = (feedback.rating, feedback.correction, feedback.preferred, feedback.rejected) != (None,) * 4
        if judges and (feedback.messages or feedback.prompt):
            said, voice = prompts[item_digest(feedback.messages, feedback.prompt)], _voice(feedback)
            said.pop(voice, None)  # the latest stays, in its own place
            said[voice] = feedback
    return {name: list(said.values()) for name, said in prompts.items()}


def _voice(feedback: Feedback) -> tuple[str, str, str]:
    nameless = feedback.rater == ANONYMOUS
    return feedback.by, feedback.rater, (feedback.request_id or feedback.id) if nameless else ""


def drafted(name: str, said: Sequence[Feedback]) -> Drafted | None:
    """The item of the prompt ``name``; None where what was ``said`` of it (oldest first) says nothing."""
    held: dict[tuple[str, int, str], list[Feedback]] = defaultdict(list)
    approval = _approval(said)
    for one in said:
        for side, strength, text in _claims(one, approval):
            held[side, strength, text.strip()].append(one)
    good = max((key for key in held if key[0] == "good"), key=lambda key: _standing(key[1], held[key]), default=None)
    bads = [key for key in held if key[0] == "bad" and (good is None or key[2] != good[2])]
    bad = max(bads, key=lambda key: _standing(key[1], held[key]), default=None)
    if good is None and bad is None:
        return None
    names = {one.id for key in (good, bad) if key for one in held[key]}
    deciding = tuple(one for one in said if one.id in names)
    item = SnapshotItem(
        digest=name,
        messages=said[0].messages or None,
        prompt=None if said[0].messages else said[0].prompt,
        good=_text(held[good][-1], good[1], "good") if good else None,
        bad=_text(held[bad][-1], bad[1], "bad") if bad else None,
        checkable=good is not None and good[1] != _PAIRED,
        labels=tuple(sorted({label for one in deciding for label in one.labels})),
        sources=tuple(sorted(names)),
    )
    return Drafted(item, deciding)


def _approval(said: Sequence[Feedback]) -> dict[str, float]:
    """answer -> the mean of what its raters gave it; one who corrects it gave it 0."""
    given: dict[str, list[float]] = defaultdict(list)
    for one in said:
        if one.answer is None:
            continue
        if one.correction is not None:
            given[one.answer.strip()].append(float(one.correction.strip() == one.answer.strip()))
        elif one.rating is not None:
            given[one.answer.strip()].append(one.rating)
    return {answer: sum(ratings) / len(ratings) for answer, ratings in given.items()}


def _claims(said: Feedback, approval: Mapping[str, float]) -> Iterator[_Claim]:
    """What one feedback holds to be good and to be bad, as far as other raters of the same answer do not overrule it."""
    mean = approval.get((said.answer or "").strip(), 0.5)
    if said.correction is not None:
        differs = said.answer is not None and said.answer.strip() != said.correction.strip()
        if not (differs and mean > 0.5):
            yield "good", _CORRECTED, said.correction
            if differs and said.answer is not None:
                yield "bad", _CORRECTED, said.answer
    elif said.preferred is not None or said.rejected is not None:
        if said.preferred is not None:
            yield "good", _PAIRED, said.preferred
        if said.rejected is not None:
            yield "bad", _PAIRED, said.rejected
    elif said.rating is not None and said.answer is not None:
        if mean > 0.5 < said.rating:
            yield "good", _RATED, said.answer
        elif mean < 0.5 > said.rating:
            yield "bad", _RATED, said.answer


def _standing(strength: int, by: Sequence[Feedback]) -> tuple[object, ...]:
    return strength, len(by), by[-1].at, by[-1].id


def _text(said: Feedback, strength: int, side: Literal["good", "bad"]) -> str | None:
    """The very words, blanks included, of the one who said it last."""
    if side == "good":
        return {_CORRECTED: said.correction, _PAIRED: said.preferred, _RATED: said.answer}[strength]
    return said.rejected if strength == _PAIRED else said.answer
