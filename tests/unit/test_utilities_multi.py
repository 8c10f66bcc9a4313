"""multi: the harmonic mean of tasks, each judged by its own utility on its own items."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarm_worker.scoring.engine import BASE, Candidate, Likelihood, Told
from swarm_worker.scoring.transformers import TransformersEngine
from swarm_worker.utilities import Item, make, measure, reference_of
from tests.contract.tiny_model import make_base
from tests.unit.tiny_experts import make_expert

CHOICES = {"A": "one", "B": "two"}
SUMS = [Item(prompt=f"{n}+1", good=str(n + 1), task="sums") for n in range(4)]
PICKS = [Item(prompt=f"pick {n}", choices=CHOICES, good="A", task="picks") for n in range(2)]
MIXED = [SUMS[0], PICKS[0], SUMS[1], SUMS[2], PICKS[1], SUMS[3]]
MULTI = make("multi", tasks={"picks": "multiple_choice", "sums": "numeric"})


def test_each_item_is_judged_by_its_own_task() -> None:
    """Whatever their order, items get the verdict of their task's utility, and the tasks' means meet in a harmonic mean."""
    asked = MULTI.asks(MIXED)
    assert asked.answers == ("0+1", "1+1", "2+1", "3+1")
    assert [q.answer for q in asked.likelihoods] == [" one", " two"] * 2
    likelihoods = tuple(
        Likelihood(total, 1) for total in (-1.0, -2.0, -3.0, -2.0)
    )  # the first pick right, the second wrong
    told = Told(likelihoods=likelihoods, answers=("1", "two", "3", "5"))
    verdicts = MULTI.judge(MIXED, told, None)
    assert [v.score for v in verdicts] == [1, 1, 0, 1, 0, 0]
    assert [v.malformed for v in verdicts] == [False, False, True, False, False, False]
    assert MULTI.combine(MIXED, [v.score for v in verdicts]) == pytest.approx(0.5)  # both tasks have .5
    assert MULTI.combine(MIXED, [1, 1, 1, 1, 0, 1]) == pytest.approx(2 / (1 / 1 + 1 / 0.5))


def test_a_task_that_fails_fails_all() -> None:
    """No gain on one task makes up for 0 on another; a task without items does not count, unjudged items neither."""
    assert MULTI.combine(MIXED, [1, 0, 1, 1, 0, 1]) == 0.0
    assert MULTI.combine(SUMS, [1, 0, 1, 0]) == 0.5
    assert MULTI.combine(MIXED, [1, 1, None, None, 1, 1]) == 1.0
    with pytest.raises(ValueError, match="none of the 2 items"):
        MULTI.combine(MIXED, [1, None, 1, 1, None, 1])


def test_a_signed_utility_is_mapped_first() -> None:
    """Effective reliability lies in [-1, 1]: 0 is half of the way, -1 is none of it."""
    multi = make("multi", tasks={"sums": "numeric", "picks": "abstain"})
    assert multi.combine(MIXED, [1, 0, 1, 1, 0, 1]) == pytest.approx(2 / (1 / 1 + 1 / 0.5))
    assert multi.combine(MIXED, [1, -1, 1, 1, -1, 1]) == 0.0
    assert multi.combine(MIXED, [1, 1, 1, 1, 1, 1]) == 1.0


def test_answers_get_the_most_tokens_of_all_tasks() -> None:
    """They are generated together."""
    multi = make(
        "multi", tasks={"sums": {"name": "numeric", "max_tokens": 9}, "picks": {"name": "abstain", "max_tokens": 5}}
    )
    assert multi.asks(MIXED).max_tokens == 9
    assert make("multi", tasks={"picks": "multiple_choice"}).asks(PICKS).answers == ()


def test_tasks_are_named() -> None:
    """An item of no task, an unknown utility and one without a name are refused."""
    with pytest.raises(ValueError, match="is of task None; multi has picks, sums"):
        MULTI.asks([Item(prompt="?", good="1")])
    with pytest.raises(ValueError, match="multi needs tasks"):
        make("multi").asks(SUMS)
    with pytest.raises(ValueError, match="utility must be one of"):
        make("multi", tasks={"sums": "maths"})
    with pytest.raises(ValueError, match="task 'sums' names no utility"):
        make("multi", tasks={"sums": {"max_tokens": 3}})
    with pytest.raises(ValueError, match="harmonic mean of no"):
        MULTI.combine([], [])


def test_on_a_model_it_is_the_harmonic_mean_of_the_tasks_alone(tmp_path: Path) -> None:
    """Asked together, each task has the score that it has when asked alone; a reference is split as the reply is."""
    base = make_base(tmp_path / "base")
    engine = TransformersEngine.load(base, [make_expert(base, tmp_path / "expert", seed=1)])
    mix = Candidate((0.8,))
    rated = [Item(prompt=f"say {n}", good=str(n), task="rated") for n in range(3)]
    picks = [Item(prompt=item.prompt, choices=CHOICES, good="B", task="picks") for item in PICKS]
    utilities = {"rated": make("preference"), "picks": make("multiple_choice", smooth=True), "sums": make("likelihood")}
    multi = make("multi", tasks=utilities)
    assert multi.needs_reference
    assert not MULTI.needs_reference
    items = [rated[0], picks[0], SUMS[0], rated[1], SUMS[1], picks[1], rated[2]]
    found = measure(multi, engine, [BASE, mix], items, reference_of(multi, engine, BASE, items))[1]
    alone = {}
    for task, utility in utilities.items():
        own = [item for item in items if item.task == task]
        alone[task] = measure(utility, engine, [mix], own, reference_of(utility, engine, BASE, own))[0]
    assert found.utility == pytest.approx(3 / sum(1 / score.utility for score in alone.values()), abs=1e-4)
    for task, score in alone.items():
        together = [value for item, value in zip(items, found.values, strict=True) if item.task == task]
        assert together == pytest.approx(score.values, abs=1e-4)
