"""The items that docs/examples search on, drawn from the starter pack's skills: ``python -m starter.examples``.

They are committed, so that an example runs by copy and paste; this says where they come from and draws them again, to the
byte. ``dev`` is drawn from what users send, ``test`` from what claims are measured on.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from starter.skills import Item, Split, items

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "examples" / "data"
SEED = 4242
DEV, TEST = 120, 80
LABELS = "ABCD"


def answered(item: Item) -> dict[str, Any]:
    """A question with its answer."""
    return {"question": item.prompt, "answer": item.answer}


def with_choices(item: Item) -> dict[str, Any]:
    """A question with its right answer among wrong ones."""
    rng = random.Random(item.digest)
    options = [item.answer, *wrong_answers(item, rng)]
    rng.shuffle(options)
    choices = dict(zip(LABELS, options, strict=True))
    return {
        "question": item.prompt,
        "choices": choices,
        "answer": next(label for label in LABELS if choices[label] == item.answer),
    }


def prompt_only(item: Item) -> dict[str, Any]:
    return {"prompt": item.prompt}


def rated(item: Item) -> dict[str, Any]:
    """What feedback looks like: half are answers that were corrected, a third were rated up, the rest down."""
    bad = wrong_answers(item, random.Random(item.digest))[0]
    kind = int(item.digest[:4], 16) % 6
    known = {"good": item.answer, "bad": bad} if kind < 3 else {"good": item.answer} if kind < 5 else {"bad": bad}
    return {"messages": [{"role": "user", "content": item.prompt}], "split": "dev", **known}


def wrong_answers(item: Item, rng: random.Random) -> list[str]:
    """Three different answers that are nearly right: the right one with its letters in another order, or one changed."""
    wrong: list[str] = []
    while len(wrong) < 3:
        letters = list(item.answer)
        if rng.random() < 0.5:
            rng.shuffle(letters)
        else:
            place = rng.randrange(len(letters))
            letters[place] = rng.choice("0123456789" if letters[place].isdigit() else "abcdefghijklmnoprstuvz")
        text = "".join(letters)
        if text != item.answer and text not in wrong and text.strip() == text:
            wrong.append(text)
    return wrong


Entry = Callable[[Item], dict[str, Any]]
DATA: dict[str, tuple[str, Entry]] = {
    "blend.json": ("blend", answered),
    "choices.json": ("blend", with_choices),
    "numbers.json": ("largest", answered),
    "prompts.json": ("blend", prompt_only),
    "rated.jsonl": ("blend", rated),
}
"""By file: the skill or blend that its items are of, and what is told of each."""


def content(name: str) -> str:
    """What the file called ``name`` holds."""
    skill, entry = DATA[name]
    drawn: dict[str, Iterable[Item]] = {split: items(skill, *how, SEED) for split, how in _HOW.items()}
    entries = {split: [json.dumps(entry(item)) for item in part] for split, part in drawn.items()}
    if name.endswith(".jsonl"):
        lines = entries["dev"] + [line.replace('"split": "dev"', '"split": "test"') for line in entries["test"]]
        return "".join(f"{line}\n" for line in lines)
    parts = [f'"{split}": [\n' + ",\n".join(lines) + "\n]" for split, lines in entries.items()]
    return "{" + ",\n".join(parts) + "}\n"


_HOW: dict[str, tuple[Split, int]] = {"dev": ("traffic", DEV), "test": ("test", TEST)}


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in DATA:
        (FOLDER / name).write_text(content(name))


if __name__ == "__main__":
    main()
