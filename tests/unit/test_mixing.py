"""The check that looks for mixed answers finds them."""

from __future__ import annotations

from collections.abc import Sequence

from starter.load import Answered
from starter.mixing import check_mixing
from starter.skills import Item

VERSIONS = ("bot@1", "bot@2")


def says(version: str, item: Item) -> str:
    """Two versions that differ on every prompt but the even ones."""
    return item.prompt if int(item.prompt) % 2 == 0 else f"{version} {item.prompt}"


def again(version: str, asked: Sequence[Item]) -> list[str]:
    return [says(version, item) for item in asked]


def answered(number: int, version: str, text: str | None = None, at: float = 0.0) -> Answered:
    item = Item("skill", str(number), "")
    return Answered(item, f"req-{number}", version, says(version, item) if text is None else text, False, at, at + 0.1)


def test_honest_answers_are_not_mixed() -> None:
    """Answers that their version repeats count as checked, and only on prompts where the versions differ."""
    check = check_mixing([answered(n, VERSIONS[n % 2]) for n in range(300)], VERSIONS, [0.0], again)
    assert (check.checked, check.mixed) == (150, 0)


def test_a_mislabelled_answer_is_counted() -> None:
    """An answer with the other version's name on it, and one that begins as one version and ends as the other."""
    honest = [answered(n, "bot@1") for n in range(1, 21, 2)]
    wrong = [
        answered(31, "bot@2", "bot@1 31"),
        answered(33, "bot@1", "bot@1 33 bot@2"),
        answered(35, "bot@3", "bot@3 35"),
    ]
    check = check_mixing([*honest, *wrong], VERSIONS, [0.0], again)
    assert (check.checked, check.mixed) == (13, 3)
    assert len(check.examples) == 3


def test_answers_near_a_move_are_checked_first() -> None:
    """With more answers than are needed, those close to a move are the ones that are asked again."""
    far = [answered(n, "bot@1", at=100.0 + n) for n in range(1, 2001, 2)]
    near = [answered(n, "bot@1", at=50.0) for n in range(1, 101, 2)]
    check = check_mixing([*far, *near], VERSIONS, [50.0], again, at_least=60)
    assert check.near == 50
    assert 60 <= check.checked < 200
