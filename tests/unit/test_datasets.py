"""Data files: the paper's JSON as it is, JSON lines, lm-eval's tasks; whatever else is refused by file, item and lack."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, ClassVar

import pytest

from swarm_worker.datasets import from_lm_eval, lm_eval_items, load
from swarm_worker.utilities import make
from swarm_worker.utilities.utility import Item, Utility

CHOICE = {"question": "capital?", "choices": {"A": "Paris", "B": "Rome"}, "answer": "B", "id": 7, "domain": "x"}
ANSWER = {"question": "2 {+} 2?", "answer": "4", "id": 1}
PROMPT = {"prompt": "Write a poem.", "id": 0}


def written(folder: Path, dev: list[Any], test: list[Any] | None = None, **more: Any) -> Path:
    path = folder / "small.json"
    path.write_text(json.dumps({"dataset": "small", "dev": dev, "test": test or [], **more}), encoding="utf-8")
    return path


def test_the_papers_json_loads_as_it_is(tmp_path: Path) -> None:
    """Multiple choice, exact match or numeric, and prompts alone; other fields of the file are not in the way."""
    dataset = load(written(tmp_path, [CHOICE, ANSWER, PROMPT], [ANSWER], icl_prompt="Question: ..."))
    assert dataset.name == "small"
    assert dataset.dev == (
        Item(prompt="capital?", choices={"A": "Paris", "B": "Rome"}, good="B"),
        Item(prompt="Question: 2 {+} 2?\nAnswer:", good="4"),
        Item(prompt="Write a poem."),
    )
    assert dataset.test == dataset.dev[1:2]
    make("multiple_choice").asks(dataset.dev[:1])
    make("numeric").asks(dataset.test)


def test_a_chat_gets_the_question_as_a_users_message(tmp_path: Path) -> None:
    """For models with a chat template; the template is theirs."""
    dataset = load(written(tmp_path, [CHOICE, ANSWER, PROMPT]), chat=True)
    questions = ["capital?", "2 {+} 2?", "Write a poem."]
    assert [item.messages for item in dataset.dev] == [[{"role": "user", "content": q}] for q in questions]


def test_templates_can_be_changed_by_kind(tmp_path: Path) -> None:
    """A prompt is complete as it is unless its template says otherwise; a mistyped kind is refused."""
    path = written(tmp_path, [ANSWER])
    assert load(path, templates={"answer": "Q: {question}\nA:"}).dev[0].prompt == "Q: 2 {+} 2?\nA:"
    for templates in ({"answers": "{question}"}, {"answer": "no place for it"}):
        with pytest.raises(ValueError, match="templates are of choice, answer, prompt"):
            load(path, templates=templates)


def test_json_lines(tmp_path: Path) -> None:
    """An item a line, with the fields of an item; empty lines are skipped, the split is dev unless given."""
    messages = [{"role": "user", "content": "hi"}]
    lines = [
        {"prompt": "a", "good": "b", "bad": "c", "task": "t"},
        {"messages": messages, "answer": 5, "split": "test"},
        {"question": "pick", "choices": ["x", "y"], "answer": "B"},
        {"prompt": "only bad", "bad": "c"},
    ]
    path = tmp_path / "items.jsonl"
    path.write_text("\n\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    dataset = load(path, task="all")
    assert dataset.dev == (
        Item(prompt="a", good="b", bad="c", task="t"),
        Item(prompt="pick", choices={"A": "x", "B": "y"}, good="B", task="all"),
        Item(prompt="only bad", bad="c", task="all"),
    )
    assert dataset.test == (Item(messages=messages, good="5", task="all"),)


@pytest.mark.parametrize(
    ("entry", "lack"),
    [
        ({"text": "?", "id": 3}, "has no 'question', 'prompt' or 'messages'; it has text, id"),
        ({}, "it has nothing"),
        ({"question": "?"}, "has a 'question' but no 'answer'"),
        ({"question": "?", "answer": "C", "choices": {"A": "x", "B": "y"}}, "one of the choices A, B, not 'C'"),
        ({"question": "?", "choices": {"A": "x", "B": "y"}}, "one of the choices A, B, not None"),
        ({"question": "?", "answer": "A", "choices": {"A": "x"}}, "two or more texts"),
        ({"question": "?", "answer": "A", "choices": {"A": "x", "B": " "}}, "none empty"),
        ({"question": "?", "answer": "A", "choices": "x, y"}, "choices must be"),
        ({"question": ["?"], "answer": "A"}, r"question must be a text that is not empty, not \['\?'\]"),
        ({"question": "?", "answer": " "}, "answer must be a text"),
        ({"question": "?", "answer": True}, "answer must be a text that is not empty, not True"),
        ({"messages": [{"role": "user"}]}, "messages must be a list of {role, content}"),
        ({"messages": []}, "messages must be a list"),
        ("?", "must be an object, not str"),
    ],
)
def test_an_unknown_shape_names_file_item_and_lack(tmp_path: Path, entry: Any, lack: str) -> None:
    """The error says where and what, for the item's place in its list or its line."""
    with pytest.raises(ValueError, match=rf"small\.json: test item 1.*{lack}"):
        load(written(tmp_path, [ANSWER], [ANSWER, entry]))
    path = tmp_path / "items.jsonl"
    path.write_text(json.dumps(ANSWER) + "\n" + json.dumps(entry), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"items\.jsonl: line 2.*{lack}"):
        load(path)


def test_files_of_another_shape_are_refused(tmp_path: Path) -> None:
    """Not JSON, no dev list, nothing to search on, an unknown split or suffix."""
    for name, text, reason in (
        ("a.json", "{", "is not JSON"),
        ("a.json", "[]", "there is no list 'dev'"),
        ("a.json", '{"dev": []}', "there is no list 'test'"),
        ("a.json", '{"dev": [], "test": []}', "no items in 'dev'"),
        ("a.jsonl", "", "no items in 'dev'"),
        ("a.jsonl", '{"prompt": "a", "split": "train"}', "line 1: split must be one of dev, test, not 'train'"),
        ("a.csv", "a,b", "a data file is .json or .jsonl, not '.csv'"),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=reason):
            load(tmp_path / name)


def test_repeated_questions_can_be_left_out(tmp_path: Path) -> None:
    """Of each question text one item stays; what test asks is not searched on, and what was left out is counted."""
    other = CHOICE | {"choices": {"A": "Oslo", "B": "Bern"}}
    path = written(tmp_path, [CHOICE, ANSWER, ANSWER | {"answer": "5"}, PROMPT], [other, CHOICE])
    assert (len(load(path).dev), len(load(path).test)) == (4, 2)
    dataset = load(path, deduplicate=True)
    assert [item.good for item in dataset.dev] == ["4", None]
    assert [item.right_text for item in dataset.test] == ["Bern"]
    assert dataset.dropped == {"dev": 2, "test": 1}


class LmEvalTask:
    """The methods of an lm-eval ``Task`` that are used, as its documentation has them."""

    OUTPUT_TYPE = "multiple_choice"
    DOCS: ClassVar[list[dict[str, Any]]] = [{"q": "sky?", "options": ["green", "blue"], "gold": 1}]

    def has_training_docs(self) -> bool:
        return True

    def has_validation_docs(self) -> bool:
        return True

    def has_test_docs(self) -> bool:
        return False

    def training_docs(self):
        return iter(self.DOCS * 3)

    def validation_docs(self):
        return iter(self.DOCS)

    def doc_to_text(self, doc):
        return f"Question: {doc['q']}\nAnswer:"

    def doc_to_choice(self, doc):
        return doc["options"]

    def doc_to_target(self, doc):
        return doc["gold"]


class LmEvalAnswers(LmEvalTask):
    OUTPUT_TYPE = "generate_until"

    def doc_to_target(self, doc):
        return [" blue", "azure"]


class LmEvalByText(LmEvalTask):
    def doc_to_target(self, doc):
        return "blue"


class LmEvalRolling(LmEvalTask):
    OUTPUT_TYPE = "loglikelihood_rolling"


class LmEvalAlone(LmEvalTask):
    def has_training_docs(self) -> bool:
        return False


def test_lm_evals_items_become_ours() -> None:
    """Its prompts and options as they are; without a test split, validation is test and training is dev."""
    right = Item(
        prompt="Question: sky?\nAnswer:", choices={"A": "green", "B": "blue"}, good="B", task="sky", complete=True
    )
    for found in (LmEvalTask(), LmEvalByText()):
        assert lm_eval_items("sky", found) == ([right] * 3, [right])
    asked = make("multiple_choice").asks([right])
    assert asked.likelihoods[1][:2] == ("Question: sky?\nAnswer:", " blue")
    dev, test = lm_eval_items("sky", LmEvalAnswers(), task="colours")
    assert dev[0] == test[0] == Item(prompt="Question: sky?\nAnswer:", good="blue", task="colours")


@pytest.mark.parametrize("utility", [make("multiple_choice", mode="answer"), make("abstain")])
def test_a_complete_prompt_is_not_lettered(utility: Utility) -> None:
    """Options below lm-eval's "Answer:" would be no prompt of anybody's: it is refused."""
    _, (item,) = lm_eval_items("sky", LmEvalTask())
    with pytest.raises(ValueError, match=r"a prompt that is complete .* has no place for lettered options"):
        utility.asks([item])


def test_a_complete_item_is_another_item() -> None:
    """It is asked otherwise, so it has a digest of its own, and it is still complete when it was written and read."""
    _, (item,) = lm_eval_items("sky", LmEvalTask())
    assert dataclasses.replace(item, complete=False, digest="").digest != item.digest
    assert Item.from_json(item.to_json()) == item


def test_lm_eval_tasks_of_another_kind_are_refused() -> None:
    """Rolling likelihoods have no question; one split is not enough to search and to measure."""
    with pytest.raises(ValueError, match="'wiki' cannot be scored here: output loglikelihood_rolling"):
        lm_eval_items("wiki", LmEvalRolling())
    with pytest.raises(ValueError, match="'sky' has 1 split"):
        lm_eval_items("sky", LmEvalAlone())


def test_without_lm_eval_the_extra_is_named(monkeypatch) -> None:
    """The error says what to install."""
    monkeypatch.setitem(__import__("sys").modules, "lm_eval", None)
    monkeypatch.setitem(__import__("sys").modules, "lm_eval.tasks", None)
    with pytest.raises(ValueError, match=r"'hellaswag' needs the extra shoal\[lm-eval\]"):
        from_lm_eval("hellaswag")
