"""multiple_choice, abstain and the reading of labels: anchored, never by substring."""

from __future__ import annotations

import math
from itertools import product

import pytest

from swarm_worker.scoring.engine import Likelihood, Question, Told
from swarm_worker.utilities import Item, make, mean
from swarm_worker.utilities.options import first_answer, label_in, lettered

FOUR = {"A": "Paris", "B": "Rome", "C": "Vitamin C", "D": "A dog that barks"}
TEN = {label: f"option number {label.lower()}" for label in "ABCDEFGHIJ"}


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        # The cases of defect E3, each of which the reference code reads as another label.
        ("Answer: B", "B"),
        ("Choice D", "D"),
        ("Correct: B", "B"),
        ("Both C", "C"),
        ("Definitely A", "A"),
        ("I think the answer is C", "C"),
        ("Hence, B", "B"),
        ("For this, A", "A"),
        # Alone, with marks.
        ("B", "B"),
        (" b\n", "B"),
        ("(B)", "B"),
        ("**B**", "B"),
        ("B.", "B"),
        ("[B]", "B"),
        # First, with a mark behind it.
        ("B. Rome", "B"),
        ("B) because it is older", "B"),
        ("B: Rome, not A", "B"),
        ("C. Vitamin C", "C"),
        ("D. A dog that barks", "D"),
        ("B. A dog is no city", "B"),
        ("B\nit is the oldest", "B"),
        # After a cue.
        ("The correct answer is (D).", "D"),
        ("the answer is: **B**", "B"),
        ("A is too small and C too cold, so the answer is B.", "B"),
        ("The answer is B because A is wrong.", "B"),
        ("My answer is option B, for sure.", "B"),
        ("Therefore B.", "B"),
        # An option's whole text.
        ("Rome", "B"),
        ("vitamin c.", "C"),
        ("a dog that barks", "D"),
        # What comes after an invented question is not the answer.
        ("B\n\nQuestion: what else?\nAnswer: C", "B"),
        # Nothing, or more than one thing.
        ("", None),
        ("   ", None),
        ("?", None),
        ("Romeo", None),
        ("Rome or Paris", None),
        ("Both A and C", None),
        ("A and B", None),
        ("A, B", None),
        ("A/B", None),
        ("A or B", None),
        ("A B C D", None),
        ("B\nC\nD", None),
        ("ABCD", None),
        ("The answer is A. The answer is B.", None),
        ("The answer is A or B", None),
        ("A dog that barks at Rome", None),
        ("Answer: none of these", None),
        ("Definitely not A", None),
        ("Because Dad Can", None),
    ],
)
def test_a_label_is_read_where_an_answer_can_mean_it(answer: str, label: str | None) -> None:
    """Anchored: alone, first, after a cue or last; ambiguous and missing ones are none."""
    assert label_in(answer, FOUR) == label


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("I think the answer is C", "C"),
        ("I", "I"),
        ("Hence, B", "B"),
        ("For this, A", "A"),
        ("I am sure: H", "H"),
        ("I would say that a good choice is hard", None),
        ("I'm not sure", None),
    ],
)
def test_words_that_look_like_labels_are_words(answer: str, label: str | None) -> None:
    """With ten options "I" and "A" are labels too, except where they are words."""
    assert label_in(answer, TEN) == label


def test_labels_need_not_be_letters() -> None:
    """Numbers and words work as labels, the longer one first."""
    choices = {str(n): f"text {n}" for n in range(1, 13)}
    assert label_in("12", choices) == "12"
    assert label_in("The answer is 11.", choices) == "11"
    assert label_in("1. text 1", choices) == "1"
    assert label_in("The answer is 13", choices) is None


@pytest.mark.parametrize("mode", ["text", "answer"])
def test_a_constant_does_not_beat_the_majority_class(mode: str) -> None:
    """Neither a constant answer nor a constant preference for an option scores above the most frequent label."""
    rights = ["A"] * 4 + ["B"] * 3 + ["C"] * 2 + ["D"]
    items = [
        Item(prompt=f"question {n}", choices={label: f"{n} {label}x" for label in "ABCD"}, good=right)
        for n, right in enumerate(rights)
    ]
    utility = make("multiple_choice", mode=mode)
    if mode == "answer":
        constants = [
            "A",
            "B",
            "ABCD",
            "A B C D",
            "Answer: A",
            "The answer is A, B, C or D.",
            "",
            "A\nB\nC\nD",
            "(A) (B)",
        ]
        told = [Told(answers=(constant,) * len(items)) for constant in constants]
    else:
        told = [
            Told(likelihoods=tuple(Likelihood(level, 3) for level in levels) * len(items))
            for levels in product((-1.0, -2.0, -3.0), repeat=4)
        ]
    for reply in told:
        assert mean([v.score for v in utility.judge(items, reply, None)]) <= 0.4


def test_format_failures_are_counted() -> None:
    """An answer that names no option, or several, is malformed and 0; a wrong label is wrong, not malformed."""
    items = [Item(prompt=str(n), choices=FOUR, good="B") for n in range(5)]
    told = Told(answers=("B", "C", "", "A or B", "I like turtles"))
    verdicts = make("multiple_choice", mode="answer").judge(items, told, None)
    assert [v.score for v in verdicts] == [1, 0, 0, 0, 0]
    assert [v.malformed for v in verdicts] == [False, False, True, True, True]


def test_text_mode_asks_for_each_options_text() -> None:
    """A completion in the documented template, open, after a blank; a chat as it is."""
    item = Item(prompt="capital {of} Italy?", choices={"A": "Paris", "B": "Rome"}, good="B")
    chat = Item(messages=[{"role": "user", "content": "capital?"}], choices={"A": "Paris", "B": "Rome"}, good="B")
    asked = make("multiple_choice").asks([item, chat])
    assert asked.answers == ()
    prompt = "Question: capital {of} Italy?\nAnswer:"
    assert asked.likelihoods == (
        Question(prompt, " Paris", closed=False),
        Question(prompt, " Rome", closed=False),
        Question(chat.messages, "Paris", closed=False),
        Question(chat.messages, "Rome", closed=False),
    )
    bare = make("multiple_choice", template="{question}").asks([item])
    assert bare.likelihoods[0].prompt == "capital {of} Italy?"


@pytest.mark.parametrize(("normalise", "best"), [("sum", "A"), ("token", "B"), ("character", "C")])
def test_normalisation_decides_between_long_and_short_options(normalise: str, best: str) -> None:
    """lm-eval's acc is the sum, its acc_norm a character's share; of a token lies between."""
    choices = {"A": "ab", "B": "abcd", "C": "abcdefgh"}
    told = Told(likelihoods=(Likelihood(-2.0, 1), Likelihood(-3.0, 3), Likelihood(-5.0, 4)))
    # sum: -2, -3, -5; token: -2, -1, -1.25; character: -1, -.75, -.625
    for right in choices:
        item = Item(prompt="?", choices=choices, good=right)
        verdict = make("multiple_choice", normalise=normalise).judge([item], told, None)[0]
        assert verdict.score == float(right == best)


def test_smooth_is_the_softmax_over_the_normalised_log_likelihoods() -> None:
    """The right option's probability; 1/k where all are equally likely, rising with its own likelihood."""
    item = Item(prompt="?", choices={"A": "ab", "B": "abcd"}, good="A")

    def score(total: float, **parameters) -> float:
        told = Told(likelihoods=(Likelihood(total, 2), Likelihood(-4.0, 2)))
        return make("multiple_choice", smooth=True, **parameters).judge([item], told, None)[0].score

    assert score(-2.0) == pytest.approx(0.5)
    assert score(-1.0) == pytest.approx(1 / (1 + math.exp(-0.5)))
    assert score(-1.0, beta=4.0) == pytest.approx(1 / (1 + math.exp(-2.0)))
    assert score(-3.0) < score(-2.0) < score(-1.0)
    assert 0 <= score(-1e6) < 1e-9


def test_a_tie_is_shared() -> None:
    """Options with the same text (MMLU and MedMCQA have some) share the point; float noise does not break a tie."""
    item = Item(prompt="?", choices={"A": "60", "B": "60", "C": "70"}, good="B")
    told = Told(likelihoods=(Likelihood(-1.0, 1), Likelihood(-1.0 - 1e-7, 1), Likelihood(-2.0, 1)))
    assert make("multiple_choice").judge([item], told, None)[0].score == 0.5


def test_lettered_shows_question_and_options() -> None:
    """A completion ends with "Answer:"; of a chat the last message gets the options and says what to answer."""
    two = {"A": "Paris", "B": "Rome"}
    assert lettered("capital?", two) == "Question: capital?\nA. Paris\nB. Rome\nAnswer:"
    turns = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "capital?"}]
    chat = lettered(turns, two)
    assert chat[0] == turns[0]
    assert chat[1]["content"] == "capital?\nA. Paris\nB. Rome\n\nAnswer with the letter of the right option only."
    assert turns[1]["content"] == "capital?"


def test_choices_are_required() -> None:
    """An item without choices, or with an empty one, cannot be asked; impossible settings are refused."""
    for mode in ("text", "answer"):
        with pytest.raises(ValueError, match="two or more choices"):
            make("multiple_choice", mode=mode).asks([Item(prompt="?", good="A")])
    with pytest.raises(ValueError, match="none empty"):
        make("multiple_choice").asks([Item(prompt="?", choices={"A": " ", "B": "x"}, good="B")])
    for parameters in ({"mode": "letter"}, {"normalise": "words"}, {"smooth": True, "mode": "answer"}, {"beta": 0.0}):
        with pytest.raises(ValueError, match=next(iter(parameters))):
            make("multiple_choice", **parameters)
    with pytest.raises(ValueError, match=r"template must hold \{question\}"):
        make("multiple_choice", template="Q:")


def test_an_answer_ends_where_the_next_question_begins() -> None:
    """Completion models go on; what they invent is not their answer."""
    assert first_answer(" 4\n\nQuestion: 3+3?\nAnswer: 6") == "4"
    assert first_answer("4\nQ: 3+3?") == "4"
    assert first_answer("a Question: of taste") == "a Question: of taste"


@pytest.mark.parametrize(
    ("answer", "score", "malformed"),
    [
        ("B", 1.0, False),
        ("The answer is B.", 1.0, False),
        ("A", -1.0, False),
        ("I don't know", 0.0, False),
        ("I do not know, perhaps B.", 0.0, False),
        ("Sorry, I'm not sure.", 0.0, False),
        ("Answer: I don\u2019t know", 0.0, False),
        ("B, I don't know why", 1.0, False),
        ("", -1.0, True),
        ("A or B", -1.0, True),
        ("lorem ipsum", -1.0, True),
    ],
)
def test_effective_reliability(answer: str, score: float, malformed: bool) -> None:
    """+1 right, -1 wrong, 0 abstained; an unreadable answer is no abstention."""
    verdict = make("abstain").judge([Item(prompt="?", choices=FOUR, good="B")], Told(answers=(answer,)), None)[0]
    assert (verdict.score, verdict.malformed) == (score, malformed)


def test_effective_reliability_of_open_questions() -> None:
    """Without choices the answer is matched exactly, and the question invites to abstain."""
    items = [Item(prompt=str(n), good="Rome") for n in range(4)]
    verdicts = make("abstain").judge(items, Told(answers=("Rome", "Paris", "unknown", "")), None)
    assert [v.score for v in verdicts] == [1.0, -1.0, 0.0, -1.0]
    assert [v.malformed for v in verdicts] == [False, False, False, True]
    chat = Item(messages=[{"role": "user", "content": "?"}], good="B")
    for item in (items[0], Item(prompt="?", choices=FOUR, good="B"), chat):
        assert "If you do not know the answer, say" in str(make("abstain").asks([item]).answers[0])


@pytest.mark.parametrize("answer", ["A", "I don't know", "A B C D", "", "The answer is A or B"])
def test_a_constant_does_not_beat_the_majority_class_by_abstaining(answer: str) -> None:
    """Always the same label gives 2p - 1, always abstaining 0: nothing constant gives more than the better of the two."""
    items = [Item(prompt=str(n), choices=FOUR, good=right) for n, right in enumerate("AAAABBBCCD")]
    verdicts = make("abstain").judge(items, Told(answers=(answer,) * 10), None)
    assert mean([v.score for v in verdicts]) <= max(0.0, 2 * 0.4 - 1)
