"""Did any answer mix two versions, or come from another version than it claims? Ask again and compare.

Only prompts on which the two versions differ can tell: on the others a wrong label would go unseen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from starter.load import Answered
from starter.skills import Item

AT_A_TIME = 64
Again = Callable[[str, Sequence[Item]], list[str]]


@dataclass(frozen=True)
class MixCheck:
    """``checked`` answers were asked again of the version they claim; ``near`` of them fell close to a move; ``mixed``
    were not the same."""

    checked: int = 0
    near: int = 0
    mixed: int = 0
    examples: tuple[str, ...] = ()

    def __add__(self, other: MixCheck) -> MixCheck:
        return MixCheck(
            self.checked + other.checked,
            self.near + other.near,
            self.mixed + other.mixed,
            (self.examples + other.examples)[:5],
        )


def check_mixing(
    answers: Sequence[Answered],
    versions: tuple[str, str],
    moves: Sequence[float],
    again: Again,
    *,
    at_least: int = 200,
    window: float = 2.0,
) -> MixCheck:
    """Ask answers again of the version they claim: all within ``window`` seconds of a move, then others until there are enough.

    ``again(version, items)`` gives that version's greedy answers. ``moves`` are the moments at which the champion moved. An
    answer that claims neither of ``versions`` counts as mixed: nothing else was ever champion meanwhile.
    """
    ordered = sorted((answer for answer in answers if not answer.error), key=lambda answer: _distance(answer, moves))
    check = MixCheck()
    for start in range(0, len(ordered), AT_A_TIME):
        part = ordered[start : start + AT_A_TIME]
        if check.checked >= at_least and _distance(part[0], moves) > window:
            break
        said = {version: again(version, [answer.item for answer in part]) for version in versions}
        for index, answer in enumerate(part):
            near = _distance(answer, moves) <= window
            check += _compare(answer, {version: texts[index] for version, texts in said.items()}, near)
    return check


def _compare(answer: Answered, said: dict[str, str], near: bool) -> MixCheck:
    if len(set(said.values())) == 1:
        return MixCheck()
    if said.get(answer.version) == answer.text:
        return MixCheck(checked=1, near=int(near))
    example = f"{answer.item.prompt!r}: {answer.version or 'nobody'} said {answer.text!r}; asked again {said}"
    return MixCheck(checked=1, near=int(near), mixed=1, examples=(example,))


def _distance(answer: Answered, moves: Sequence[float]) -> float:
    """Seconds between the answer and the nearest move; 0 where a move fell into it."""
    return min((max(answer.began - move, move - answer.ended, 0.0) for move in moves), default=float("inf"))
