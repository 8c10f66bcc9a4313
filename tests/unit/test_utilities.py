"""Utilities and baselines: bounded, of their own item only, and not to be won by a constant answer."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from swarm_worker.baselines import BASELINES
from swarm_worker.scoring.engine import BASE, Candidate
from swarm_worker.scoring.transformers import TransformersEngine
from swarm_worker.utilities import UTILITIES, Item, Reference, make, mean
from swarm_worker.utilities.exact_match import is_match
from tests.contract.tiny_model import make_base
from tests.unit.tiny_experts import make_expert

ITEMS = [
    Item(prompt="two plus two", good="four", bad="five"),
    Item(messages=[{"role": "user", "content": "say no"}], good="no"),
    Item(prompt="say nothing", bad="something"),
]
MIX = Candidate((0.7, 0.4))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> TransformersEngine:
    root: Path = tmp_path_factory.mktemp("pack")
    base = make_base(root / "base")
    return TransformersEngine.load(base, [make_expert(base, root / str(i), seed=i) for i in range(2)])


def test_preference_is_the_formula(engine) -> None:
    """sigmoid(beta * s * (l_x - l_ref)), of the good answer where there is one, else of the bad one, limited to 0.5."""
    utility = make("preference", beta=2.0)
    reference = utility.prepare(engine, BASE, ITEMS)

    def gain(item: Item, answer: str) -> float:
        pair = [engine.tokenise(item.question, answer)]
        return engine.log_likelihoods(MIX, pair)[0] - engine.log_likelihoods(BASE, pair)[0]

    gains = [gain(ITEMS[0], "four"), gain(ITEMS[1], "no"), min(0.0, -gain(ITEMS[2], "something"))]
    expected = [1 / (1 + math.exp(-2.0 * gain)) for gain in gains]
    assert utility.scores(engine, MIX, ITEMS, reference) == pytest.approx(expected, abs=1e-4)


def test_preference_of_the_reference_itself_is_one_half(engine) -> None:
    """No change from the champion is 0.5, on every item."""
    reference = UTILITIES["preference"].prepare(engine, MIX, ITEMS)
    assert UTILITIES["preference"].scores(engine, MIX, ITEMS, reference) == pytest.approx([0.5] * 3, abs=1e-6)


def test_moving_away_from_the_champion_wins_nothing_by_itself(engine) -> None:
    """A correction is not won by making the champion's own wrong answer less likely: its likelihood does not count."""
    corrected = [Item(prompt="two plus two", good="four", bad=bad) for bad in ("five", "six", None)]
    utility = UTILITIES["preference"]
    scores = utility.scores(engine, MIX, corrected, utility.prepare(engine, BASE, corrected))
    assert scores == pytest.approx([scores[0]] * 3, abs=1e-6)

    answer = engine.generate(BASE, ["two plus two"], 8)[0]
    rated_down = [Item(prompt="two plus two", bad=answer)]
    champion_unlearned = utility.scores(engine, MIX, rated_down, utility.prepare(engine, BASE, rated_down))
    assert champion_unlearned == [0.5]
    learned = utility.scores(engine, BASE, rated_down, utility.prepare(engine, MIX, rated_down))
    assert learned[0] < 0.5


def test_preference_is_bounded(engine) -> None:
    """However extreme the candidate, a score stays in [0, 1] and one item cannot outweigh the others."""
    utility = make("preference", beta=1e4)
    reference = utility.prepare(engine, BASE, ITEMS)
    assert all(0 <= score <= 1 for score in utility.scores(engine, Candidate((9.0, -9.0)), ITEMS, reference))


@pytest.mark.parametrize("name", sorted(UTILITIES))
def test_an_items_score_does_not_depend_on_its_neighbours(engine, name: str) -> None:
    """Scored alone, an item has the score that it has among others."""
    utility, items = UTILITIES[name], ITEMS[:2]
    together = utility.scores(engine, MIX, items, utility.prepare(engine, BASE, items))
    alone = [utility.scores(engine, MIX, [item], utility.prepare(engine, BASE, [item]))[0] for item in items]
    assert alone == pytest.approx(together, abs=1e-4)


def test_a_reference_goes_through_json_and_belongs_to_its_items(engine) -> None:
    """A worker gets the reference as JSON; used for other items it is refused."""
    reference = UTILITIES["preference"].prepare(engine, BASE, ITEMS)
    assert Reference.from_json(reference.to_json()) == reference
    with pytest.raises(ValueError, match="reference is of 3 items"):
        UTILITIES["preference"].scores(engine, MIX, ITEMS[:2], reference)


class Parrot:
    """An engine that answers the same to everything."""

    identity = "parrot"

    def __init__(self, answer: str) -> None:
        self.answer = answer

    def generate(self, scored, prompts, max_tokens) -> list[str]:
        return [self.answer] * len(prompts)


@pytest.mark.parametrize("answer", ["", " ", "yes no", "no, yes", "01234567890", "YesNode1234567", "Yes"])
def test_a_constant_answer_does_not_beat_the_majority_class(answer: str) -> None:
    """No string scores above the most frequent right answer: nothing is matched by substring."""
    items = [Item(prompt=str(n), good=good) for n, good in enumerate(["yes"] * 5 + ["no"] * 4 + ["1", "Node 1"])]
    score = mean(UTILITIES["exact_match"].scores(Parrot(answer), BASE, items, Reference()))
    assert score <= 5 / 11


def test_exact_match_forgives_blanks_only() -> None:
    """Blanks at the ends and their number are forgiven, case and everything else is not."""
    assert is_match(" a  b\n", "a b")
    assert not is_match("A b", "a b")
    assert not is_match("a b.", "a b")
    assert not is_match("", "a")


def test_exact_match_of_a_greedy_answer(engine) -> None:
    """What the model answers is right; anything else is wrong."""
    answer = engine.generate(MIX, ["two plus two"], 8)[0]
    items = [Item(prompt="two plus two", good=answer or "?"), Item(prompt="two plus two", good="q")]
    assert make("exact_match", max_tokens=8).scores(engine, MIX, items, Reference()) == [float(bool(answer)), 0.0]


def test_exact_match_needs_a_right_answer(engine) -> None:
    """An item with a bad answer only cannot be matched."""
    with pytest.raises(ValueError, match="no good answer"):
        UTILITIES["exact_match"].scores(engine, MIX, ITEMS, Reference())


def test_items_are_named_by_their_content() -> None:
    """The digest depends on question and answers only; an item goes through JSON."""
    item = Item(prompt="a", good="b")
    assert item.digest == Item(prompt="a", good="b").digest
    assert item.digest != Item(prompt="a", bad="b").digest
    assert Item.from_json(item.to_json()) == item
    with pytest.raises(ValueError, match="either messages or a prompt"):
        Item(good="b")
    with pytest.raises(ValueError, match="good answer, a bad answer"):
        Item(prompt="a")


def test_unknown_utilities_and_parameters_name_the_choices() -> None:
    """A mistyped name or parameter says which there are."""
    with pytest.raises(ValueError, match="one of exact_match, preference"):
        make("accuracy")
    with pytest.raises(ValueError, match="no parameter 'gamma'; it has beta"):
        make("preference", gamma=1)
    with pytest.raises(ValueError, match="beta"):
        make("preference", beta=0)
    with pytest.raises(ValueError, match="no items"):
        mean([])


@pytest.mark.parametrize("name", sorted(BASELINES))
def test_baselines_turn_a_scorer_into_coefficients(name: str) -> None:
    """Each gives one coefficient per expert, repeatably, within its budget."""
    scored: list[tuple[float, ...]] = []

    def score(coefficients: tuple[float, ...]) -> float:
        scored.append(coefficients)
        return -abs(coefficients[1] - 0.7) - abs(coefficients[0] - 0.3)

    found = BASELINES[name](score, 3, 40, 1)
    assert len(found) == 3
    assert found == BASELINES[name](score, 3, 40, 1)
    assert len(scored) <= 80
    if name == "best_expert":
        assert found == (0.0, 1.0, 0.0)
    if name == "random_in_hull":
        assert len(scored) == 80
        assert found != (0.0, 1.0, 0.0)


def test_a_budget_below_the_starts_is_refused() -> None:
    """Random search in the hull cannot cost less than its starts."""
    with pytest.raises(ValueError, match="do not cover the 4 starts"):
        BASELINES["random_in_hull"](lambda c: 0.0, 3, 3, 1)
