"""What raters said of one prompt, as one item, and who decided it. Pure.

Of several feedbacks by one rater (one name under one API key) on one prompt those of the latest answer count (by time, then id),
and of these the latest of each part: a rating replaces a rating, a correction a correction, a pair a pair; and a rating up
of what was corrected takes the correction back. Who gives no name is another at every request. A comment or labels alone
replace nothing. A correction is good, and the answer
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
from datetime import datetime
from functools import cached_property
from itertools import chain
from typing import Literal

from registry.canonical import digest
from registry.records import ANONYMOUS, Feedback, Message, SnapshotItem
from registry.standing import slots, without

_RATED, _PAIRED, _CORRECTED = 1, 2, 3
_Voice = tuple[str, str, str]  # one rater, as far as can be known: key, name, and the request where there is no name
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
    prompts: dict[str, dict[_Voice, list[Feedback]]] = defaultdict(lambda: defaultdict(list))
    for feedback in sorted(feedbacks, key=_when):
        judges = (feedback.rating, feedback.correction, feedback.preferred, feedback.rejected) != (None,) * 4
        if judges and (feedback.messages or feedback.prompt):
            said, voice = prompts[item_digest(feedback.messages, feedback.prompt)], _voice(feedback)
            said[voice] = [*_beside(feedback, said[voice]), feedback]
    return {name: sorted(chain.from_iterable(said.values()), key=_when) for name, said in prompts.items()}


def _beside(latest: Feedback, earlier: Sequence[Feedback]) -> list[Feedback]:
    """What stands of a rater's ``earlier`` words on a prompt beside the ``latest``."""
    answers = {one.answer.strip() for one in (latest, *earlier) if one.answer is not None}
    if len(answers) > 1:
        return []
    replaced = slots(latest).keys()
    left = (without(one, replaced | {"correction"} if _takes_back(latest, one) else replaced) for one in earlier)
    return [one for one in left if one is not None]


def _takes_back(latest: Feedback, earlier: Feedback) -> bool:
    """Whether a rating denies what the rater corrected before: up what was wrong then, or down what was right."""
    rating, right, answer = latest.rating, earlier.correction, latest.answer or earlier.answer
    if rating is None or rating == 0.5 or right is None or answer is None:
        return False
    return (rating > 0.5) != (right.strip() == answer.strip())


def _when(feedback: Feedback) -> tuple[datetime, str]:
    return feedback.at, feedback.id


def _voice(feedback: Feedback) -> _Voice:
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
    given: dict[str, dict[_Voice, float]] = defaultdict(dict)
    for one in said:
        if one.answer is None:
            continue
        if one.correction is not None:
            given[one.answer.strip()][_voice(one)] = float(one.correction.strip() == one.answer.strip())
        elif one.rating is not None:
            given[one.answer.strip()].setdefault(_voice(one), one.rating)  # who corrects has said more
    return {answer: sum(ratings.values()) / len(ratings) for answer, ratings in given.items()}


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
