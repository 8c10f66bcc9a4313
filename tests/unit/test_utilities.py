"""Utilities: bounded, of their own item only, and not to be won by a constant answer."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from swarm_worker.scoring.engine import BASE, Asked, Candidate, Likelihood, Question, Scored, Told, answers_of
from swarm_worker.scoring.transformers import TransformersEngine
from swarm_worker.search import Move, Outcome
from swarm_worker.utilities import UTILITIES, Item, Utility, Verdict, make, mean, measure, reference_of
from swarm_worker.utilities.exact_match import ExactMatch, is_match
from swarm_worker.utilities.utility import scores_of
from tests.contract.tiny_model import make_base
from tests.unit.tiny_experts import make_expert

ITEMS = [
    Item(prompt="two plus two", good="four", bad="five"),
    Item(messages=[{"role": "user", "content": "say no"}], good="no"),
    Item(prompt="say nothing", bad="something"),
]
CHOICES = [
    Item(prompt="the sky is", choices={"A": "green", "B": "blue", "C": "a lemon"}, good="B"),
    Item(messages=[{"role": "user", "content": "pick one"}], choices={"A": "this", "B": "that"}, good="A"),
]
MIX = Candidate((0.7, 0.4))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> TransformersEngine:
    root: Path = tmp_path_factory.mktemp("pack")
    base = make_base(root / "base")
    return TransformersEngine.load(base, [make_expert(base, root / str(i), seed=i) for i in range(2)])


def scores(
    utility: Utility, engine: TransformersEngine, scored: Scored, items: Sequence[Item], reference: Scored = BASE
) -> list[float | None]:
    return list(measure(utility, engine, [scored], items, reference_of(utility, engine, reference, items))[0].values)


def told_answers(answer: str, items: Sequence[Item]) -> Told:
    """What a model that answers the same to everything tells."""
    return Told(answers=(answer,) * len(items))


def test_preference_is_the_formula(engine) -> None:
    """sigmoid(beta * s * (l_x - l_ref)), of the good answer where there is one, else of the bad one, limited to 0.5."""

    def gain(item: Item, answer: str) -> float:
        asked = Asked(likelihoods=(Question(item.question, answer),))
        after, before = engine.ask([MIX, BASE], asked)
        return after.likelihoods[0].mean - before.likelihoods[0].mean

    gains = [gain(ITEMS[0], "four"), gain(ITEMS[1], "no"), min(0.0, -gain(ITEMS[2], "something"))]
    expected = [1 / (1 + math.exp(-2.0 * gain)) for gain in gains]
    assert scores(make("preference", beta=2.0), engine, MIX, ITEMS) == pytest.approx(expected, abs=1e-4)


def test_preference_of_the_reference_itself_is_one_half(engine) -> None:
    """No change from the champion is 0.5, on every item."""
    assert scores(make("preference"), engine, MIX, ITEMS, reference=MIX) == pytest.approx([0.5] * 3, abs=1e-6)


def test_moving_away_from_the_champion_wins_nothing_by_itself(engine) -> None:
    """A correction is not won by making the champion's own wrong answer less likely: its likelihood does not count."""
    utility = make("preference")
    corrected = [Item(prompt="two plus two", good="four", bad=bad) for bad in ("five", "six", None)]
    found = scores(utility, engine, MIX, corrected)
    assert found == pytest.approx([found[0]] * 3, abs=1e-6)

    rated_down = [Item(prompt="two plus two", bad=answers_of(engine, BASE, ["two plus two"], 8)[0])]
    assert scores(utility, engine, MIX, rated_down) == [0.5]
    assert scores(utility, engine, BASE, rated_down, reference=MIX)[0] < 0.5


def test_preference_is_bounded(engine) -> None:
    """However extreme the candidate, a score stays in [0, 1] and one item cannot outweigh the others."""
    found = scores(make("preference", beta=1e4), engine, Candidate((9.0, -9.0)), ITEMS)
    assert all(0 <= score <= 1 for score in found)


@pytest.mark.parametrize(
    ("name", "parameters", "items"),
    [
        ("abstain", {"max_tokens": 4}, ITEMS[:2]),
        ("abstain", {"max_tokens": 4}, CHOICES),
        ("exact_match", {"max_tokens": 4}, ITEMS[:2]),
        ("likelihood", {}, ITEMS[:2]),
        ("likelihood", {}, CHOICES),
        ("multiple_choice", {"smooth": True}, CHOICES),
        ("multiple_choice", {"mode": "answer", "max_tokens": 4}, CHOICES),
        ("numeric", {"max_tokens": 4}, [Item(prompt="2+2", good="4"), Item(prompt="one and one", good="2")]),
        ("perplexity", {}, ITEMS[:2]),
        ("preference", {}, ITEMS),
    ],
)
def test_a_score_is_of_its_own_item_and_position_only(engine, name: str, parameters, items) -> None:
    """Scored alone, an item has the score that it has among others, in any order, and beside other positions."""
    utility = make(name, **parameters)
    together = scores(utility, engine, MIX, items)
    assert [scores(utility, engine, MIX, [item])[0] for item in items] == pytest.approx(together, abs=1e-4)
    assert scores(utility, engine, MIX, items[::-1])[::-1] == pytest.approx(together, abs=1e-4)
    reference = reference_of(utility, engine, BASE, items)
    beside = measure(utility, engine, [BASE, MIX], items, reference)[1]
    assert beside.values == pytest.approx(together, abs=1e-4)
    low, high = utility.bounds
    assert all(low <= score <= high for score in together)


@pytest.mark.parametrize("name", ["abstain", "exact_match", "numeric", "multiple_choice"])
def test_dev_and_test_are_scored_the_same_way(name: str) -> None:
    """The same answer to the same item scores the same in whatever list it stands (defects E2, E11, E13): a utility is never
    told of which split its items are."""
    utility = make(name, mode="answer") if name == "multiple_choice" else make(name)
    choices = None if name in ("exact_match", "numeric") else {"1": "one", "2": "two", "3": "three"}
    items = [Item(prompt=str(n), choices=choices, good=str(n % 3 + 1)) for n in range(6)]
    answers = ("1", "the answer is 2", "I don't know", "", "nobody knows that it is 3 of 12 after 3", "1 2")
    both = utility.judge(items, Told(answers=answers), None)
    assert both == [
        *utility.judge(items[:2], Told(answers=answers[:2]), None),
        *utility.judge(items[2:], Told(answers=answers[2:]), None),
    ]


def test_a_reference_belongs_to_its_items(engine) -> None:
    """Used for other items it is refused, and where one is needed its absence is too."""
    utility = make("preference")
    reference = reference_of(utility, engine, BASE, ITEMS)
    with pytest.raises(ValueError, match="reference is of 3 items"):
        measure(utility, engine, [MIX], ITEMS[:2], reference)
    with pytest.raises(ValueError, match="reference is of 0 items"):
        measure(utility, engine, [MIX], ITEMS)
    assert reference_of(make("exact_match"), engine, BASE, ITEMS[:2]) is None


@pytest.mark.parametrize("answer", ["", " ", "yes no", "no, yes", "01234567890", "YesNode1234567", "Yes", "yes"])
def test_a_constant_answer_does_not_beat_the_majority_class(answer: str) -> None:
    """No string scores above the most frequent right answer: nothing is matched by substring (defect E1)."""
    items = [Item(prompt=str(n), good=good) for n, good in enumerate(["yes"] * 5 + ["no"] * 4 + ["1", "Node 1"])]
    verdicts = make("exact_match").judge(items, told_answers(answer, items), None)
    assert mean([verdict.score for verdict in verdicts]) <= 5 / 11


def test_empty_answers_are_counted_as_malformed() -> None:
    """Exact match scores an empty answer 0 and counts it."""
    items = [Item(prompt=str(n), good="yes") for n in range(3)]
    verdicts = make("exact_match").judge(items, Told(answers=("", " \n", "yes")), None)
    assert [(v.score, v.malformed) for v in verdicts] == [(0.0, True), (0.0, True), (1.0, False)]


def test_exact_match_forgives_blanks_only() -> None:
    """Blanks at the ends and their number are forgiven, case and everything else is not."""
    assert is_match(" a  b\n", "a b")
    assert not is_match("A b", "a b")
    assert not is_match("a b.", "a b")
    assert not is_match("", "a")


def test_exact_match_of_a_greedy_answer(engine) -> None:
    """What the model answers is right; anything else is wrong."""
    answer = answers_of(engine, MIX, ["two plus two"], 8)[0]
    items = [Item(prompt="two plus two", good=answer or "?"), Item(prompt="two plus two", good="q")]
    assert scores(make("exact_match", max_tokens=8), engine, MIX, items) == [float(bool(answer)), 0.0]


@pytest.mark.parametrize("name", ["exact_match", "likelihood", "numeric", "perplexity", "abstain"])
def test_what_needs_a_right_answer_says_so(engine, name: str) -> None:
    """An item with a bad answer only cannot be matched; that is said before any model is asked."""
    with pytest.raises(ValueError, match="no good answer"):
        make(name).asks(ITEMS[2:])


def test_likelihood_is_the_probability_of_the_right_answer() -> None:
    """exp of the answer's log-likelihood, a token's or all of it; of a choice, the right option's text is asked for."""
    told = Told(likelihoods=(Likelihood(-3.0, 2), Likelihood(-0.5, 1)))
    for normalise, expected in (("token", [-1.5, -0.5]), ("sum", [-3.0, -0.5])):
        verdicts = make("likelihood", normalise=normalise).judge(CHOICES, told, None)
        assert [v.score for v in verdicts] == pytest.approx([math.exp(x) for x in expected])
    assert [q.answer for q in make("likelihood").asks(CHOICES).likelihoods] == ["blue", "this"]
    assert all(q.closed for q in make("likelihood").asks(CHOICES).likelihoods)


def test_perplexity_is_of_open_text(engine) -> None:
    """One over the perplexity of the good text; the text need not end there."""
    utility = make("perplexity")
    asked = utility.asks(ITEMS[:1])
    assert asked.likelihoods == (Question("two plus two", "four", closed=False),)
    reply = engine.ask([MIX], asked)[0].likelihoods[0]
    assert reply.tokens == 4  # a token a letter
    assert scores(utility, engine, MIX, ITEMS[:1]) == pytest.approx([math.exp(reply.total / 4)])


def test_items_are_named_by_their_content() -> None:
    """The digest depends on question and answers only; an item goes through JSON."""
    item = Item(prompt="a", good="b")
    assert item.digest == Item(prompt="a", good="b").digest
    assert item.digest != Item(prompt="a", bad="b").digest
    assert Item.from_json(item.to_json()) == item
    assert Item.from_json(CHOICES[0].to_json()) == CHOICES[0]
    assert CHOICES[0].right_text == "blue"
    with pytest.raises(ValueError, match="either messages or a prompt"):
        Item(good="b")
    with pytest.raises(ValueError, match="good must be one of the choices A, B"):
        Item(prompt="a", choices={"A": "x", "B": "y"}, good="x")


def test_unknown_utilities_and_parameters_name_the_choices() -> None:
    """A mistyped name or parameter says which there are, a bad value which are allowed."""
    with pytest.raises(ValueError, match="one of abstain, exact_match"):
        make("accuracy")
    with pytest.raises(ValueError, match="no parameter 'gamma'; it has beta"):
        make("preference", gamma=1)
    with pytest.raises(ValueError, match="it has none"):
        make("perplexity", gamma=1)
    with pytest.raises(ValueError, match="beta"):
        make("preference", beta=0)
    with pytest.raises(ValueError, match="normalise must be one of token, sum"):
        make("likelihood", normalise="words")
    with pytest.raises(ValueError, match="no items"):
        mean([])
    with pytest.raises(ValueError, match="none of the 2 items could be judged"):
        mean([None, None])


def test_unjudged_items_are_left_out_of_the_mean() -> None:
    """None is no score."""
    assert mean([1.0, None, 0.0]) == 0.5


def test_the_table_names_each_utility_as_it_names_itself() -> None:
    """A utility's name is its key in the table, and its file says where it comes from."""
    for name, utility in UTILITIES.items():
        assert utility.name == name
        module = sys.modules[type(utility).__module__]
        assert "arXiv" in (module.__doc__ or "") or "Jelinek" in (module.__doc__ or "")


def test_importing_the_table_loads_no_scorers_library() -> None:
    """math-verify, the OpenAI client and lm-eval are loaded when they are first used."""
    code = (
        "import sys, swarm_worker.utilities, swarm_worker.datasets, swarm_worker.splits\n"
        "heavy = [m for m in ('math_verify', 'sympy', 'openai', 'lm_eval', 'transformers') if m in sys.modules]\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")


def test_a_position_that_nobody_can_judge_fails_alone() -> None:
    """It is a case, not the end of the search: who was asked with it has a utility, it has none, with the reason."""

    @dataclasses.dataclass(frozen=True)
    class Fussy(ExactMatch):
        """Judges no answer but four."""

        def judge(self, items, told, reference) -> list[Verdict]:
            return [Verdict(1.0 if answer == "four" else None) for answer in told.answers]

    items = [Item(prompt="two plus two", good="four")]
    judged, unjudged = (scores_of(Fussy(), items, Told(answers=(answer,)), None) for answer in ("four", "hm"))
    assert (judged.utility, judged.error) == (1.0, None)
    assert math.isnan(unjudged.utility)
    assert (unjudged.unjudged, unjudged.error) == (1, "no item could be judged")
    move = Move(0, 0, (1.0,))
    assert Outcome.of(move, unjudged.utility, unjudged.error) == Outcome(0, 0, None, "no item could be judged")
