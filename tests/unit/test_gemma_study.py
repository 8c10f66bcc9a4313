"""The real-model study without its model: it goes on where it was stopped, and no target's question trains an expert."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.gemma_items import SOURCES, TARGETS, parts_of
from bench.gemma_journal import Journal
from swarm_worker.scoring.engine import Asked, Candidate, Likelihood, Question, Scored, Told

ASKED = Asked(likelihoods=(Question("Question: one?\nAnswer:", " two", closed=False),))


class CountingEngine:
    """Says another number each time it is asked."""

    identity = "counting"
    context = 100

    def __init__(self) -> None:
        self.asked = 0

    def ask(self, scored: list[Scored], asked: Asked) -> list[Told]:
        self.asked += len(scored)
        return [Told(tuple(Likelihood(-float(self.asked), 1) for _ in asked.likelihoods)) for _ in scored]


def journal(file: Path, engine: CountingEngine, pool: str = "pool") -> Journal:
    return Journal(lambda: engine, file, pool)  # type: ignore[arg-type, return-value]


def test_a_study_that_was_stopped_asks_nothing_twice_and_bills_it_as_before(tmp_path: Path) -> None:
    first, second = CountingEngine(), CountingEngine()
    scored = [Candidate((0.5, 0.5)), Candidate((0.25, 0.75))]
    before = journal(tmp_path / "journal.jsonl", first)
    told = before.ask(scored, ASKED)
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write('{"key": "cut o')  # stopped while it wrote

    after = journal(tmp_path / "journal.jsonl", second)

    assert after.ask(scored, ASKED) == told
    assert second.asked == 0
    assert after.seconds == before.seconds


def test_another_pool_another_position_and_another_question_are_asked_anew(tmp_path: Path) -> None:
    engine = CountingEngine()
    ours = journal(tmp_path / "journal.jsonl", engine)
    ours.ask([Candidate((0.5, 0.5))], ASKED)
    ours.ask([Candidate((0.5, 0.5), "factors")], ASKED)
    ours.ask([Candidate((0.5, 0.5))], Asked(likelihoods=(Question("another", " two"),)))
    journal(tmp_path / "journal.jsonl", engine, "another pool").ask([Candidate((0.5, 0.5))], ASKED)
    assert engine.asked == 4


def test_an_expert_alone_is_the_same_model_in_either_space(tmp_path: Path) -> None:
    engine = CountingEngine()
    ours = journal(tmp_path / "journal.jsonl", engine)
    told = ours.ask([Candidate((0.0, 1.0)), Candidate((0.0, 1.0), "factors")], ASKED)
    assert told[0] == told[1]
    assert ours.ask([Candidate((0.0, 2.0))], ASKED) != ours.ask([Candidate((0.0, 2.0), "factors")], ASKED)


def test_parts_are_disjoint_and_a_question_that_trains_an_expert_is_refused(tmp_path: Path) -> None:
    target = TARGETS["mmlu"]
    for source in SOURCES:
        questions = [f"{source} question {number}" for number in range(12)]
        write(tmp_path / f"{source}.json", questions)
    pool = [source for source in SOURCES if source != "mmlu"]

    parts = parts_of(tmp_path, target, pool, (3, 4, 5))

    digests = [item.digest for items in (parts.search, parts.confirm, parts.test) for item in items]
    assert (len(digests), len(set(digests))) == (12, 12)
    write(tmp_path / "medqa.json", ["mmlu  question 3", "another"])  # blanks apart the same
    with pytest.raises(ValueError, match="1 questions of mmlu train an expert"):
        parts_of(tmp_path, target, pool, (3, 4, 5))
    with pytest.raises(ValueError, match="mmlu has 12 questions"):
        parts_of(tmp_path, target, ["gsm8k"], (6, 6, 6))


def write(file: Path, questions: list[str]) -> None:
    entries = [{"question": q, "choices": {"A": "yes", "B": "no"}, "answer": "A"} for q in questions]
    half = len(entries) // 2
    file.write_text(json.dumps({"dev": entries[:half], "test": entries[half:]}))
