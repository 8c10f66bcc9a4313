"""The judge of the rivals: what counts as a gap, a double winner, a wrong answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench import rival
from bench.rivals import judged, met
from registry.records import Event, now


def promoted(number: int, operation: str) -> Event:
    return Event(
        kind="promoted", number=number, adapter="rivals", at=now(), by="rival", revision=number, operation_id=operation
    )


def began(operation: str) -> dict[str, Any]:
    return {"began": {"id": operation, "expected": 0, "version": 1}}


def ended(operation: str, revision: int | None) -> dict[str, Any]:
    return {"ended": {"id": operation, "revision": revision}}


def test_one_winner_a_revision_and_no_gap_is_a_clean_fight() -> None:
    """A loser was told so, and who was killed before the answer came asked again."""
    figures = judged(
        [promoted(1, "a"), promoted(2, "b")],
        [[began("a"), ended("a", 1), began("c"), ended("c", None)], [began("b"), ended("b", 2)]],
    )
    assert figures == {
        "moves": 2,
        "gaps": 0,
        "double_winners": 0,
        "told_wrongly": 0,
        "attempts": 3,
        "unanswered": 0,
    }


def test_a_missing_number_counts_as_a_gap_in_history_and_in_revisions() -> None:
    assert judged([promoted(1, "a"), promoted(3, "b")], [])["gaps"] == 2


def test_two_operations_that_made_one_revision_are_a_double_winner() -> None:
    figures = judged([promoted(1, "a")], [[began("a"), ended("a", 1)], [began("b"), ended("b", 1)]])
    assert figures["double_winners"] == 1
    assert figures["told_wrongly"] == 1


def test_an_operation_that_was_told_to_have_lost_and_is_in_history_was_told_wrongly() -> None:
    assert judged([promoted(1, "a")], [[began("a"), ended("a", None)]])["told_wrongly"] == 1


def test_a_line_that_a_kill_cut_off_never_happened(tmp_path: Path) -> None:
    journal = tmp_path / "rival.jsonl"
    journal.write_text('{"began": {"id": "a", "expected": 0, "version": 1}}\n{"ended": {"id": "a"')
    assert [operation["id"] for operation in rival.open_operations(rival.read(journal))] == ["a"]


def test_a_fight_with_too_few_moves_or_without_a_kill_is_no_success() -> None:
    clean = {"moves": 40, "gaps": 0, "double_winners": 0, "told_wrongly": 0, "unanswered": 0, "kills": 9}
    assert met(clean, 40)
    for worse in ({"moves": 39}, {"kills": 0}, {"gaps": 1}, {"double_winners": 1}, {"told_wrongly": 1}):
        assert not met(clean | worse, 40)
