"""The starter pack's tasks and files: right answers, splits that never meet, a pack that is what it says."""

from __future__ import annotations

import itertools
import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starter.pack import BASE_NAME, IncompletePack, Pack, load_pack
from starter.skills import BLEND, BLENDS, SKILLS, LeakedItems, Split, check_disjoint, items

SPLITS = get_args(Split)


ALPHABET = "abcdefghijklmnopqrstuvwxyz"
INDEPENDENT: dict[str, Callable[[str], str]] = {
    "reverse": lambda text: "".join(reversed(text)),
    "dedup": lambda text: "".join(letter for letter, _ in itertools.groupby(text)),
    "swap": lambda text: "".join(b + a for a, b in zip(text[::2], text[1::2], strict=True)),
    "sort": lambda text: "".join(letter * text.count(letter) for letter in ALPHABET),
    "shift": lambda text: text.translate(str.maketrans(ALPHABET, ALPHABET[1:] + "a")),
    "vowels": lambda text: "".join(c for c in text if c not in "bcdfghjklmnpqrstvwxyz") or "none",
    "mask": lambda text: text.translate(str.maketrans("aeiou", "*****")),
    "initials": lambda text: "".join(next(iter(word)) for word in text.split()),
    "largest": lambda text: sorted(text.split(), key=int)[-1],
}
"""Each skill's answer, worked out another way than ``starter.skills`` does, from what follows the colon."""


@pytest.mark.parametrize("skill", SKILLS)
def test_every_answer_is_right(skill: str) -> None:
    """A skill's answer is what another way of computing it gives, and its prompt is one short line."""
    for item in items(skill, "test", 200, 3):
        assert item.answer == INDEPENDENT[skill](item.prompt.split(": ", 1)[1])
        assert item.is_right(f" {item.answer}\n")
        assert not item.is_right(item.answer + "x")
        assert item.prompt.isascii()
        assert "\n" not in item.prompt
        assert len(item.prompt) < 40
        assert item.answer


@pytest.mark.parametrize("skill", SKILLS)
def test_an_item_space_never_runs_out(skill: str) -> None:
    """A skill has more than 50,000 distinct prompts: a thousand draws from so large a space almost never repeat."""
    # given: n draws from a space of size N repeat about n**2 / 2N times: 10 at n = 1000 and N = 50,000
    rng = random.Random(5)
    drawn = [SKILLS[skill](rng)[0] for _ in range(2000)]
    # then: at 2,000 draws that is 40
    assert len(drawn) - len(set(drawn)) < 40


@settings(max_examples=25, deadline=None)
@given(skill=st.sampled_from([*SKILLS, *BLENDS]), seed=st.integers(0, 2**32), other=st.integers(0, 2**32))
def test_splits_never_share_an_item(skill: str, seed: int, other: int) -> None:
    """Whatever the seeds, lists of different splits are disjoint, and a list repeats nothing."""
    lists = [items(skill, split, 60, seed if split == "train" else other) for split in SPLITS]
    check_disjoint(*lists)
    for split, drawn in zip(SPLITS, lists, strict=True):
        assert len({item.digest for item in drawn}) == len(drawn) == 60
        assert {item.split for item in drawn} == {split}


def test_items_repeat_by_seed_and_redraw_by_another() -> None:
    """The same arguments give the same list; another seed gives (almost wholly) other items."""
    again = items("blend", "traffic", 100, 1)
    assert items("blend", "traffic", 100, 1) == again
    shared = {item.digest for item in again} & {item.digest for item in items("blend", "traffic", 100, 2)}
    assert len(shared) <= 1


def test_a_blend_is_uniform() -> None:
    """A blend holds as many items of each of its skills, give or take one."""
    drawn = items("blend", "test", 100, 0)
    counts = [sum(item.skill == skill for item in drawn) for skill in BLEND]
    assert len(BLEND) >= 3
    assert sum(counts) == 100
    assert max(counts) - min(counts) <= 1


def test_a_leak_is_named() -> None:
    """An item in two lists is refused, and the error says which item it is."""
    first = items("reverse", "traffic", 5, 0)
    with pytest.raises(LeakedItems) as caught:
        check_disjoint(first, items("swap", "traffic", 5, 0), [first[2]])
    assert caught.value.digests == [first[2].digest]
    assert first[2].prompt in str(caught.value)


def test_unknown_names_are_refused() -> None:
    """A skill or a split that does not exist is an error, not an empty list."""
    with pytest.raises(KeyError, match="juggle"):
        items("juggle", "test", 1, 0)
    with pytest.raises(KeyError, match="exam"):
        items("reverse", "exam", 1, 0)  # type: ignore[arg-type]


def header(path: Path) -> dict:
    """A safetensors file's header, read without any tensor library."""
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        return {name: entry for name, entry in json.loads(file.read(size)).items() if name != "__metadata__"}


def numbers(entries: dict) -> int:
    """How many numbers the tensors of a safetensors header hold."""
    total = 0
    for entry in entries.values():
        count = 1
        for side in entry["shape"]:
            count *= side
        total += count
    return total


@pytest.fixture(scope="module")
def pack() -> Pack:
    return load_pack()


def test_the_pack_is_complete(pack: Pack) -> None:
    """The pack loads, has an expert for every skill, and its champion is the expert of the blend's first skill."""
    assert len(pack.experts) >= 8
    assert set(pack.experts) == set(SKILLS)
    assert pack.blend == BLEND
    assert pack.champion == pack.blend[0]


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    """A pack that is not there says what is missing and how to make it."""
    with pytest.raises(IncompletePack, match="make starter"):
        load_pack(tmp_path)


def test_the_pack_is_small(pack: Pack) -> None:
    """At most 3 million parameters, at most 12 MB of weights, everything in bf16."""
    base = header(pack.base / "model.safetensors")
    files = [pack.base / "model.safetensors", *(p / "adapter_model.safetensors" for p in pack.experts.values())]
    assert numbers(base) <= 3_000_000
    assert sum(file.stat().st_size for file in files) <= 12_000_000
    assert {entry["dtype"] for file in files for entry in header(file).values()} == {"BF16"}


def test_experts_are_lora_of_this_base(pack: Pack) -> None:
    """Every expert is a plain rank-8 PEFT LoRA that names the starter base."""
    for folder in pack.experts.values():
        config = json.loads((folder / "adapter_config.json").read_text())
        assert (config["peft_type"], config["r"], config["bias"]) == ("LORA", 8, "none")
        assert config["base_model_name_or_path"] == BASE_NAME
        assert not config["use_dora"]
        ranks = {min(entry["shape"]) for entry in header(folder / "adapter_model.safetensors").values()}
        assert ranks == {8}


def test_experts_are_better_on_their_own_skill(pack: Pack) -> None:
    """In the training record every expert beats the base by 15 points on its skill and costs the others at most 5."""
    table = json.loads((pack.base.parent / "training.json").read_text())["table"]
    for name in pack.experts:
        gains = {skill: table[name][skill] - table["base"][skill] for skill in SKILLS}
        own = gains.pop(name)
        assert own >= 15, f"{name} gains {own:.1f} points"
        assert sum(gains.values()) / len(gains) >= -5, f"{name} costs the others {gains}"


def test_the_card_carries_the_table(pack: Pack) -> None:
    """The model card's table is the training record's."""
    root = pack.base.parent
    card, table = (root / "README.md").read_text(), json.loads((root / "training.json").read_text())["table"]
    for model, row in table.items():
        line = next(line for line in card.splitlines() if line.startswith(f"| {model} |") and "`" not in line)
        assert [float(cell.strip(" *")) for cell in line.split("|")[2:-2]] == [row[skill] for skill in SKILLS]


def test_the_tokenizer_reads_and_writes_any_printable_text(pack: Pack) -> None:
    """Printable ASCII and newlines come back as they went in, one token a character; anything else is unknown."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(pack.base / "tokenizer.json"))
    text = "".join(chr(code) for code in range(32, 127)) + "\n a  b"
    encoded = tokenizer.encode(text)
    assert len(encoded.ids) == len(text)
    assert tokenizer.decode(encoded.ids) == text
    assert tokenizer.encode("caf\u00e9").tokens == ["c", "a", "f", "<|unk|>"]


def test_a_chat_renders_as_the_models_were_trained(pack: Pack) -> None:
    """The chat template gives question, newline, answer, end: what ``starter.training`` trains on, nothing more."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    file = pack.base / "chat_template.jinja"
    template = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(file.read_text())
    turns = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "reverse: stone "}]
    assert template.render(messages=turns, eos_token="<|end|>", add_generation_prompt=True) == "reverse: stone\n"
    turns.append({"role": "assistant", "content": "enots"})
    assert template.render(messages=turns, eos_token="<|end|>") == "reverse: stone\nenots<|end|>"
    generation = json.loads((pack.base / "generation_config.json").read_text())
    assert generation["eos_token_id"] == 1
