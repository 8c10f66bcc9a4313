"""Items from files: the JSON of Model Swarms as it is, JSON lines, and lm-eval's tasks.

Model Swarms' files (github.com/BunsenFeng/model_swarm, data/eval) hold ``{"dev": [...], "test": [...]}``; ``dev`` is the pool
that a search, and what confirms it, may draw from. An entry is one of three kinds:

    choice   question, choices, answer (a label)      utility multiple_choice, abstain
    answer   question, answer                         exact_match, numeric, likelihood
    prompt   prompt                                   reward_model, judge, toxicity

A JSON lines file holds an item a line: ``prompt`` or ``messages`` with ``good`` (or ``answer``), ``bad``, ``choices``, ``task``
and ``split`` ("dev" where not given).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from swarm_worker.utilities.utility import Item

TEMPLATES: dict[str, str] = {
    "choice": "{question}",  # the utility shows question and options; see multiple_choice
    "answer": "Question: {question}\nAnswer:",
    "prompt": "{question}",
}
"""The completion prompt of each kind of entry; in a chat the question is the user's message as it is."""

SPLITS = ("dev", "test")


@dataclass(frozen=True, slots=True)
class Dataset:
    """Items by the split their file gives them: the pool to search and confirm on, and what claims are measured on."""

    name: str
    dev: tuple[Item, ...]
    test: tuple[Item, ...] = ()
    dropped: dict[str, int] = field(default_factory=dict)
    """How many items ``deduplicate`` left out, by split."""

    def deduplicated(self) -> Dataset:
        """Each question text once: ``test`` keeps its first, ``dev`` loses what ``test`` asks. (knowledge_crosswords asks
        some questions again with other options.)"""
        seen: set[str] = set()
        test = tuple(_unseen(self.test, seen))
        dev = tuple(_unseen(self.dev, seen))
        dropped = {"dev": len(self.dev) - len(dev), "test": len(self.test) - len(test)}
        return replace(self, dev=dev, test=test, dropped=dropped)


def load(
    path: Path | str,
    *,
    chat: bool = False,
    task: str | None = None,
    deduplicate: bool = False,
    templates: Mapping[str, str] | None = None,
) -> Dataset:
    """The items of a ``.json`` or ``.jsonl`` file.

    ``chat``: a question becomes a user's message, for models with a chat template, not a completion prompt. ``task``: the name
    that every item gets as part of a ``multi`` utility; an item's own counts more. ``templates``: by kind, in place of
    ``TEMPLATES``. Raises ``ValueError`` that names the file, the item and what it lacks; ``OSError`` for a file that cannot be
    read.
    """
    path = Path(path)
    shape = TEMPLATES | dict(templates or {})
    if unknown := [kind for kind in shape if kind not in TEMPLATES or "{question}" not in shape[kind]]:
        raise ValueError(f"templates are of {', '.join(TEMPLATES)} and hold {{question}}, unlike {unknown[0]!r}")
    found: dict[str, list[Item]] = {split: [] for split in SPLITS}
    for split, where, entry in _entries(path):
        found[split].append(_item(entry, where, chat=chat, task=task, templates=shape))
    if not found["dev"]:
        raise ValueError(f"{path}: it has no items in 'dev', the pool to search on")
    dataset = Dataset(path.stem, tuple(found["dev"]), tuple(found["test"]))
    return dataset.deduplicated() if deduplicate else dataset


def question_text(item: Item) -> str:
    """What an item asks, as text; doubled blanks are one."""
    if item.prompt is not None:
        return " ".join(item.prompt.split())
    return " ".join(json.dumps(item.messages, sort_keys=True, ensure_ascii=False).split())


def from_lm_eval(name: str, *, task: str | None = None, include_path: str | None = None) -> Dataset:
    """The items of an lm-eval task (github.com/EleutherAI/lm-evaluation-harness) by its name; a group gives all its tasks'.
    ``include_path``: a folder with tasks of one's own.

    ``test`` is the task's test split, ``dev`` its validation split; where it lacks one of the two, ``dev`` is its training
    split. Prompts are lm-eval's own, without examples, and complete: ``multiple_choice`` puts no template around them. An item's
    ``task`` is ``task``, or its lm-eval task's name. Raises ``ValueError`` where lm-eval is not installed, does not know the
    task, or the task has items of another kind (rolling likelihood, options in the prompt).
    """
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise ValueError(
            f"lm-eval task {name!r} needs the extra shoal[lm-eval]: pip install 'shoal[lm-eval]'"
        ) from error
    try:
        found = TaskManager(include_path=include_path).load(name)["tasks"]
    except KeyError as error:
        raise ValueError(f"lm-eval has no task {name!r}") from error
    parts = [lm_eval_items(key, lm_task, task) for key, lm_task in found.items()]
    return Dataset(name, tuple(i for dev, _ in parts for i in dev), tuple(i for _, test in parts for i in test))


def lm_eval_items(name: str, lm_task: Any, task: str | None = None) -> tuple[list[Item], list[Item]]:
    """(dev, test) of one lm-eval ``Task``, through its public methods."""
    splits = [
        getattr(lm_task, f"{split}_docs")()
        for split in ("test", "validation", "training")
        if getattr(lm_task, f"has_{split}_docs")()
    ]
    if len(splits) < 2:
        raise ValueError(
            f"lm-eval task {name!r} has {len(splits)} split; a search needs one to search and one to test on"
        )
    test, dev = ([_lm_eval_item(name, lm_task, doc, task or name) for doc in docs] for docs in splits[:2])
    return dev, test


def _lm_eval_item(name: str, lm_task: Any, doc: Any, task: str) -> Item:
    prompt, target = lm_task.doc_to_text(doc), lm_task.doc_to_target(doc)
    kind = lm_task.OUTPUT_TYPE
    if not isinstance(prompt, str) or kind not in ("multiple_choice", "generate_until", "loglikelihood"):
        raise ValueError(f"lm-eval task {name!r} cannot be scored here: output {kind}, prompts {type(prompt).__name__}")
    if kind == "multiple_choice":
        texts = [str(text) for text in lm_task.doc_to_choice(doc)]
        right = target if isinstance(target, int) else texts.index(str(target))
        return Item(prompt=prompt, choices=_labelled(texts), good=_label(right), task=task, complete=True)
    # Some tasks accept several answers; the first is the one that the others are spellings of.
    good = target[0] if isinstance(target, list | tuple) else target
    return Item(prompt=prompt, good=str(good).strip(), task=task)


def _entries(path: Path) -> Iterator[tuple[str, str, Any]]:
    """(split, where, entry) of each entry of a file; ``where`` names it in an error."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                where = f"{path}: line {number}"
                entry = _parsed(line, where)
                yield _split_of(entry, where), where, entry
        return
    if path.suffix != ".json":
        raise ValueError(f"{path}: a data file is .json or .jsonl, not {path.suffix or 'without a suffix'!r}")
    content = _parsed(text, str(path))
    for split in SPLITS:
        entries = content.get(split) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise ValueError(f'{path}: it must hold {{"dev": [...], "test": [...]}}; there is no list {split!r}')
        for number, entry in enumerate(entries):
            yield split, f"{path}: {split} item {number}", entry


def _split_of(entry: Any, where: str) -> str:
    split = entry.get("split", "dev") if isinstance(entry, dict) else "dev"
    if split not in SPLITS:
        raise ValueError(f"{where}: split must be one of {', '.join(SPLITS)}, not {split!r}")
    return split


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON: {error}") from error


def _item(entry: Any, where: str, *, chat: bool, task: str | None, templates: Mapping[str, str]) -> Item:
    if not isinstance(entry, dict):
        raise ValueError(f"{where} must be an object, not {type(entry).__name__}")
    good = _text(entry, where, "good", "answer")
    bad, own_task = _text(entry, where, "bad"), _text(entry, where, "task")
    choices = _choices(entry, where)
    if choices is not None and good not in choices:
        raise ValueError(f"{where}: answer must be one of the choices {', '.join(choices)}, not {good!r}")
    known: dict[str, Any] = {"good": good, "bad": bad, "choices": choices, "task": own_task or task}
    if "messages" in entry:
        return Item(messages=_messages(entry["messages"], where), **known)
    question, prompt = _text(entry, where, "question"), _text(entry, where, "prompt")
    if question is None and prompt is None:
        raise ValueError(f"{where} has no 'question', 'prompt' or 'messages'; it has {', '.join(entry) or 'nothing'}")
    if question is not None and good is None and bad is None:
        raise ValueError(f"{where} has a 'question' but no 'answer'; it has {', '.join(entry)}")
    # A prompt is complete as it is; a question gets the template of its kind.
    kind = "prompt" if question is None else "choice" if choices is not None else "answer"
    asked = str(prompt if question is None else question)
    if chat:
        return Item(messages=[{"role": "user", "content": asked}], **known)
    return Item(prompt=templates[kind].replace("{question}", asked), **known)


def _text(entry: Mapping[str, Any], where: str, *names: str) -> str | None:
    """The first of these fields that is there, as text; numbers are written out."""
    for name in names:
        value = entry.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
            raise ValueError(f"{where}: {name} must be a text that is not empty, not {value!r}")
        return str(value)
    return None


def _choices(entry: Mapping[str, Any], where: str) -> dict[str, str] | None:
    choices = entry.get("choices")
    if choices is None:
        return None
    if isinstance(choices, list):
        choices = _labelled([str(text) for text in choices])
    if not isinstance(choices, dict) or len(choices) < 2 or not all(str(text).strip() for text in choices.values()):
        raise ValueError(f"{where}: choices must be two or more texts by label, none empty, not {choices!r}")
    return {str(label): str(text) for label, text in choices.items()}


def _messages(value: Any, where: str) -> list[dict[str, Any]]:
    if (
        not isinstance(value, list)
        or not value
        or not all(isinstance(m, dict) and {"role", "content"} <= m.keys() for m in value)
    ):
        raise ValueError(f"{where}: messages must be a list of {{role, content}}, not {value!r:.80}")
    return value


def _labelled(texts: list[str]) -> dict[str, str]:
    return {_label(number): text for number, text in enumerate(texts)}


def _label(number: int) -> str:
    """A, B, ... Z, then numbers."""
    return ascii_uppercase[number] if number < len(ascii_uppercase) else str(number + 1)


def _unseen(items: Iterable[Item], seen: set[str]) -> Iterator[Item]:
    for item in items:
        question = question_text(item)
        if question not in seen:
            seen.add(question)
            yield item
