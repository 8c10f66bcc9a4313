"""The options of a choice: how a prompt shows them, and which of them an answer names.

Anchored extraction: a label counts only where an answer can mean it (alone, first with a mark behind it, after a cue such as
"the answer is", or last), never because its letter occurs somewhere. The reference code of Model Swarms looked for the letter
in the first five characters and read "Answer: B" as A (`research/model_swarms.md`, defect E3).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from swarm_worker.scoring.engine import Prompt

LETTER_ONLY = "Answer with the letter of the right option only."

# Where a completion model goes on to the next question, its answer is over; lm-eval stops generation there.
_NEXT_QUESTION = re.compile(r"\n\s*(?:Question|Q)\s*\d*\s*[:.]")


def lettered(
    question: Prompt, choices: Mapping[str, str], instruction: str = LETTER_ONLY, *, complete: bool = False
) -> Prompt:
    """The question with its options, a line each.

    A completion prompt becomes ``Question: ...``, the options as ``A. ...``, ``Answer:``. Of a chat, the last message gets
    the options and ``instruction``. Raises ``ValueError`` for a completion prompt that is ``complete``.
    """
    if complete:
        raise ValueError(
            "a prompt that is complete (lm-eval's) has no place for lettered options: use multiple_choice with mode 'text', "
            f"not {str(question)[-60:]!r}"
        )
    lines = "\n".join(f"{label}. {text}" for label, text in choices.items())
    if isinstance(question, str):
        return f"Question: {question}\n{lines}\nAnswer:"
    *before, last = question
    return [*before, {**last, "content": f"{last['content']}\n{lines}\n\n{instruction}"}]


def first_answer(text: str) -> str:
    """What stands before the next question that a completion model invents; blanks at the ends removed."""
    return _NEXT_QUESTION.split(text, maxsplit=1)[0].strip()


def label_in(answer: str, choices: Mapping[str, str]) -> str | None:
    """The label that an answer names; None where it names none, or more than one.

    In this order: the answer is an option's label or whole text; it begins with a label and a mark ("B. Paris", "(B)"); its
    cues ("the answer is B", "Correct: B") all name the same label; the only label in it is its last word ("Hence, B").
    """
    text = first_answer(answer)
    return _whole(text, choices) or _leading(text, choices) or _cued_or_last(text, choices)


def _whole(text: str, choices: Mapping[str, str]) -> str | None:
    bare = _bare(text)
    named = [label for label in choices if bare == label.casefold()]
    named = named or [label for label, option in choices.items() if bare == _bare(option)]
    return named[0] if len(named) == 1 else None


def _leading(text: str, choices: Mapping[str, str]) -> str | None:
    match = _patterns(tuple(choices)).leading.match(text)
    if match is None:
        return None
    label, rest = match["label"], text[match.end() :]
    if _bare(rest) == _bare(choices[label]):
        return label
    # "A, B" and "A/B" name two; "B. A dog" names one, for there the second is a word.
    return None if _patterns(tuple(choices)).next_label.match(rest) else label


def _cued_or_last(text: str, choices: Mapping[str, str]) -> str | None:
    patterns = _patterns(tuple(choices))
    if patterns.leading.match(text):
        return None  # it began with several
    cued = {match["label"] for match in patterns.cue.finditer(text)}
    if cued:
        return cued.pop() if len(cued) == 1 else None
    named = {match["label"] for match in patterns.anywhere.finditer(text)}
    last = patterns.last.search(text)
    return last["label"] if last is not None and named == {last["label"]} else None


def _bare(text: str) -> str:
    """Without marks at the ends, case or doubled blanks."""
    return " ".join(re.sub(r"^[\W_]+|[\W_]+$", "", text).split()).casefold()


class _Patterns(NamedTuple):
    leading: re.Pattern[str]
    next_label: re.Pattern[str]
    cue: re.Pattern[str]
    anywhere: re.Pattern[str]
    last: re.Pattern[str]


@lru_cache(maxsize=64)
def _patterns(labels: Sequence[str]) -> _Patterns:
    either = "|".join(re.escape(label) for label in sorted(labels, key=len, reverse=True))
    label = rf"(?P<label>{either})(?!\w)"
    # "A dog", "I think": the letter is a word where a word in small letters follows. "B because", "B is": there it is not.
    meant = rf"{label}(?!\s+(?!is\b|because\b|since\b|as\b|and\b|or\b|with\b|for\b)[a-z])(?!['\u2019])"
    cue = (
        r"(?i:\b(?:answer|choice|option|correct(?:\s+(?:answer|choice|option))?|pick|choose|select)\b)"
        r"(?i:\s+(?:is|are|was|would\s+be|should\s+be|must\s+be))?(?i:\s+(?:option|choice|letter))?\s*[:=]?\s*[*_\"'(\[$]*"
    )
    after_cue = r"(?!\s*(?:,|/|&|and\b|or\b)\s*[(\[*]*(?:" + either + r")(?!\w))"
    return _Patterns(
        leading=re.compile(rf"[\s*_\"'(\[]*{label}(?:\s*[.):,\]*]+|\s*\n|\s*$)"),
        next_label=re.compile(rf"\s*(?:/|&|and\b|or\b)?\s*[(\[*]*{meant}"),
        cue=re.compile(rf"{cue}{meant}{after_cue}"),
        anywhere=re.compile(rf"(?<!\w){meant}"),
        last=re.compile(rf"(?<!\w)(?<!not )(?<!n't ){label}[\W_]*$"),
    )
