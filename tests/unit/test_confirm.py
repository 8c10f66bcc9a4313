"""What the gate is given to decide on, from ratings, corrections and pairs together."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from registry.records import Feedback, SnapshotItem
from registry.snapshot_items import by_prompt, drafted
from swarm_worker.confirm import confirm, representative
from swarm_worker.hull_options import HullOptions
from swarm_worker.scoring.engine import BASE, Asked, Candidate, Likelihood, Prompt, Question, Scored, Told
from tests.unit.toy_engine import NO_OPTIONS, uniform

CHAMPION, FINALIST = BASE, Candidate((1.0,))
SKILL: dict[Scored, float] = {CHAMPION: 0.45, FINALIST: 0.6}
"""The share that each gets right of what users ask."""


class Skilled:
    """It answers "right" as often as its skill says, else something of its own; what it would say is likelier to it."""

    identity = "skilled"
    context = 100

    def set_experts(self, folders: Sequence[Path], options: HullOptions = NO_OPTIONS) -> None:
        """There are none."""

    def length(self, prompt: Prompt, answer: str) -> int:
        return 1

    def ask(self, scored: Sequence[Scored], asked: Asked) -> list[Told]:
        return [
            Told(
                tuple(self._likelihood(one, question) for question in asked.likelihoods),
                tuple(says(one, str(prompt)) for prompt in asked.answers),
            )
            for one in scored
        ]

    def _likelihood(self, scored: Scored, question: Question) -> Likelihood:
        return Likelihood(-0.1 if says(scored, str(question.prompt)) == question.answer else -3.0, 1)


def says(scored: Scored, prompt: str) -> str:
    luck = uniform(prompt) if scored is CHAMPION else (uniform(prompt) + 0.5 * uniform(prompt, "finalist")) % 1
    return "right" if luck < SKILL[scored] else f"wrong {uniform(prompt, str(scored)):.2f}"


def item(number: int, **said: Any) -> SnapshotItem:
    feedback = Feedback(id=str(number), adapter="bot", prompt=f"q{number}", at=datetime(2026, 1, 1, tzinfo=UTC), **said)
    ((name, ones),) = by_prompt([feedback]).items()
    found = drafted(name, ones)
    assert found is not None
    return found.item


def users(n: int, *, corrects: float = 1.0, pairs: float = 0.0, seed: int = 0) -> list[SnapshotItem]:
    """Right answers are rated up; of the wrong ones a share is corrected, the others rated down; some compare two."""
    rng = random.Random(seed)
    found = []
    for number in range(n):
        answer = says(CHAMPION, f"q{number}")
        if rng.random() < pairs:
            found.append(item(number, preferred="right", rejected=f"other {number}"))
        elif answer == "right":
            found.append(item(number, answer=answer, rating=1.0))
        elif rng.random() < corrects:
            found.append(item(number, answer=answer, correction="right"))
        else:
            found.append(item(number, answer=answer, rating=0.0))
    return found


def confirmed(items: list[SnapshotItem]) -> dict[str, Any]:
    return confirm(Skilled(), CHAMPION, FINALIST, items, max_tokens=8)


def gain(report: dict[str, Any]) -> float:
    return statistics.mean(report["after"]) - statistics.mean(report["before"])


def test_corrections_among_pairs_and_ratings_count_as_exact_match() -> None:
    """In a mix what can be checked is checked; a pair's preferred answer is no right answer, and does not count."""
    items = users(300, corrects=0.5, pairs=0.4)
    report = confirmed(items)
    assert report["measure"] == "exact_match"
    assert len(report["before"]) == report["accepted"] + report["corrected"]
    corrected = sum(one.checkable and one.bad is not None for one in items)
    assert report["corrected"] == corrected
    assert all(one.checkable for one in representative(items))


def test_failures_that_nobody_corrected_do_not_flatter_the_champion() -> None:
    """With half of the failures corrected the gain is what users would see, as it is where all of them are."""
    true = SKILL[FINALIST] - SKILL[CHAMPION]
    for corrects in (1.0, 0.5, 0.2):
        report = confirmed(users(8000, corrects=corrects))
        assert report["measure"] == "exact_match"
        assert abs(gain(report) - true) < 0.05
        assert abs(statistics.mean(report["before"]) - SKILL[CHAMPION]) < 0.05


def test_ratings_alone_are_decided_by_likelihood() -> None:
    """Where nobody says what would have been right, the answers rated up are all the champion's own: exact match could only
    fall. Where nothing was wrong either, exact match holds."""
    assert confirmed(users(200, corrects=0.0))["measure"] == "preference"
    praised = [one for one in users(400) if one.bad is None]
    report = confirmed(praised)
    assert (report["measure"], report["corrected"]) == ("exact_match", 0)
    assert gain(report) <= 0


def test_careless_thumbs_do_not_flatter_the_champion() -> None:
    """Of those who only rate some click up whatever they read, and such an answer only the champion can repeat: they do not
    count beside raters who both accept and correct. They do where those are too few to decide."""
    true = SKILL[FINALIST] - SKILL[CHAMPION]
    careless = [
        item(number, answer=says(CHAMPION, f"q{number}"), rating=1.0).model_copy(update={"two_sided": False})
        for number in range(8000, 12000)
    ]
    report = confirmed(users(8000) + careless)
    assert report["accepted"] + report["corrected"] == 8000
    assert abs(gain(report) - true) < 0.03
    few = confirmed(users(40) + careless)
    assert few["accepted"] > 1000
    assert gain(few) < 0


def test_what_is_taken_does_not_depend_on_the_order() -> None:
    """The same items, whatever the order they come in; all of them where every failure was corrected."""
    items = users(200, corrects=0.3)
    shuffled = random.Random(1).sample(items, len(items))
    assert {one.digest for one in representative(items)} == {one.digest for one in representative(shuffled)}
    whole = users(200)
    assert representative(whole) == whole
