"""Racing: what is stopped, what the optimiser is told of it, what it saves and what that costs."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence

import pytest

from swarm_worker import search
from swarm_worker.racing import Racing, RacingScorer, _blocks, _lead, effect
from swarm_worker.scorer import Scorer, climb
from swarm_worker.search import Coefficients, Move
from swarm_worker.utilities import Item, make
from swarm_worker.utilities.likelihood import RightLikelihood
from tests.unit.toy_engine import BEST, ToyEngine

ITEMS = [Item(prompt=f"question {number}", good="yes") for number in range(60)]


def scorer(items: Sequence[Item], noise: float = 0.0) -> Scorer:
    return Scorer(ToyEngine(noise), RightLikelihood(), items)


def racing(noise: float = 0.0, racing: Racing | None = None) -> RacingScorer:
    return RacingScorer(lambda part: scorer(part, noise), ITEMS, racing)


def moves(generation: int, *positions: Coefficients) -> list[Move]:
    return [Move(generation, particle, position) for particle, position in enumerate(positions)]


def test_a_stopped_position_is_told_with_the_best_ones_correction() -> None:
    """Where items are as much easier for one as for the other, the correction is exact: what is told of a position that saw
    a third of the items is what all of them would have said."""
    raced = racing()
    raced.outcomes(moves(0, BEST))
    (outcome,) = raced.outcomes(moves(1, (0.0, 0.0, 1.0)))
    assert raced.stopped == 1
    assert raced.item_generations == 60 + 20
    assert outcome.utility == pytest.approx(scorer(ITEMS)((0.0, 0.0, 1.0)), abs=1e-6)


def test_the_first_generation_is_scored_whole() -> None:
    """Without a best one there is nothing to lose against, and the experts' own scores are exact."""
    raced = racing(noise=0.1)
    outcomes = raced.outcomes(moves(0, BEST, (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)))
    assert raced.item_generations == 3 * 60
    assert outcomes[1].utility == pytest.approx(scorer(ITEMS, 0.1)((1.0, 0.0, 0.0)))


def test_a_better_position_sees_every_item() -> None:
    """What is ahead of the best is never stopped, and becomes the best that others are compared with."""
    raced = racing()
    raced.outcomes(moves(0, (0.0, 0.0, 1.0)))
    (better,) = raced.outcomes(moves(1, BEST))
    (worse,) = raced.outcomes(moves(2, (0.0, 0.0, 1.0)))
    assert raced.item_generations == 60 + 60 + 20
    assert better.utility is not None
    assert worse.utility is not None
    assert worse.utility < better.utility


def test_a_stopped_position_never_becomes_the_best() -> None:
    """However lucky its items, it is told at most what the best one has; a search's best is a position that saw all."""
    raced = racing(noise=0.6)
    best = climb(search.make("cma_es", n_experts=3, seed=0, max_generations=12), raced)
    assert raced.stopped > 0
    assert best.utility == pytest.approx(scorer(ITEMS, 0.6)(best.coefficients), abs=1e-6)


def test_racing_saves_more_than_it_costs_on_the_toy() -> None:
    """``effect`` reports both: of the item-generations at least a fifth is saved, and the find is nearly as good."""

    def quality(position: Coefficients) -> float:
        return scorer(ITEMS)(position)

    found = effect(
        lambda: search.make("cma_es", n_experts=3, seed=4, max_generations=15), scorer(ITEMS, 0.2), racing(0.2), quality
    )
    assert found.saving > 0.2
    assert found.difference > -0.03
    assert found.saving == pytest.approx(1 - found.item_generations_raced / found.item_generations_plain)


def test_it_goes_on_from_its_json() -> None:
    """Best position and bill survive: the next generation is raced as if nothing had happened."""
    one, other = racing(0.3), racing(0.3)
    one.outcomes(moves(0, BEST, (0.0, 0.0, 1.0)))
    other.restore(json.loads(json.dumps(one.to_json())))
    positions = ((0.1, 0.0, 0.9), (0.7, 0.4, 0.0), (1.0, 1.0, 1.0))
    assert other.outcomes(moves(1, *positions)) == one.outcomes(moves(1, *positions))
    assert other.to_json() == one.to_json()
    assert other.item_generations == one.item_generations


def test_the_standard_error_is_the_paired_one() -> None:
    """For a utility that is a mean, the jackknife gives the paired t statistic's error."""
    values, rival = (0.1, 0.5, 0.9, 0.4), (0.2, 0.2, 0.7, 0.8)
    differences = [a - b for a, b in zip(values, rival, strict=True)]
    lead, error = _lead(RightLikelihood(), ITEMS[:4], values, rival)
    assert lead == pytest.approx(statistics.fmean(differences))
    assert error == pytest.approx(statistics.stdev(differences) / 2)


def test_an_item_that_nobody_could_judge_tells_nothing() -> None:
    """A missing score is left out on both sides."""
    with_gap = _lead(RightLikelihood(), ITEMS[:4], (0.1, None, 0.9, 0.4), (0.2, 0.9, 0.7, 0.8))
    without = _lead(RightLikelihood(), ITEMS[:3], (0.1, 0.9, 0.4), (0.2, 0.7, 0.8))
    assert with_gap == pytest.approx(without)


def test_every_block_holds_its_share_of_each_task() -> None:
    """A harmonic mean needs every task in every block; no item is lost or doubled."""
    items = [Item(prompt=f"{task} {number}", good="yes", task=task) for task in "ab" for number in range(9)]
    blocks = _blocks(items, Racing().blocks)
    assert [[sum(item.task == task for item in block) for task in "ab"] for block in blocks] == [[3, 3]] * 3
    assert {item.digest for block in blocks for item in block} == {item.digest for item in items}
    utility = make("multi", tasks={"a": "likelihood", "b": "likelihood"})
    raced = RacingScorer(lambda part: Scorer(ToyEngine(0.0), utility, part), items, Racing(min_items=2))
    raced.outcomes(moves(0, BEST))
    raced.outcomes(moves(1, (0.0, 0.0, 1.0)))
    assert raced.item_generations == 18 + 6


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"blocks": (0.5, 0.4, 1.0)}, "blocks"),
        ({"blocks": (0.5,)}, "blocks"),
        ({"blocks": ()}, "blocks"),
        ({"level": 1.0}, "level"),
        ({"min_items": 1}, "min_items"),
    ],
)
def test_bad_options_are_refused_by_name(options: dict[str, object], field: str) -> None:
    """The message names the field."""
    with pytest.raises(ValueError, match=f"racing.{field}"):
        Racing(**options)  # type: ignore[arg-type]
