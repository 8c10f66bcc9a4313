"""run.yaml: what it becomes, and what is said of one that cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import yaml

from swarm_worker import utilities
from swarm_worker.offline import config as configs
from swarm_worker.offline.config import BadConfig, RunConfig
from swarm_worker.presets import PRESETS, smooth
from tests.unit.tiny_experts import write_expert


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A base, two experts, a data file: all that a config names, beside it."""
    (tmp_path / "base").mkdir()
    for seed, name in enumerate(("one", "two")):
        write_expert(tmp_path / "experts" / name, seed, {"a": 2})
    (tmp_path / "items.jsonl").write_text('{"prompt": "question", "good": "yes"}\n')
    return tmp_path


def load(folder: Path, **changes: object) -> RunConfig:
    value = {"base": "base", "experts": ["experts/one", "experts/two"], "data": "items.jsonl", "utility": "exact_match"}
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(value | changes))
    return configs.load(file)


def test_paths_are_relative_to_the_file(folder: Path) -> None:
    """So that a config works from wherever it is called."""
    config = load(folder, out="found")
    assert config.experts == {"one": folder / "experts/one", "two": folder / "experts/two"}
    assert config.data.file == folder / "items.jsonl"
    assert config.base == str(folder / "base")
    assert config.out == folder / "found"


def test_short_forms_mean_the_long_ones(folder: Path) -> None:
    """A name stands for a table entry without options, a list of folders for their names, true for racing as it is."""
    short = load(folder, racing=True, optimizer="cma_es")
    long = load(
        folder,
        experts={"one": "experts/one", "two": "experts/two"},
        data={"file": "items.jsonl"},
        utility={"name": "exact_match", "options": {}},
        racing={"level": 0.95},
        optimizer={"name": "cma_es", "preset": None},
    )
    assert short == long


def test_a_base_may_be_a_hugging_face_id(folder: Path) -> None:
    """What is no folder and looks like owner/name is left as it is."""
    assert load(folder, base="google/gemma-3-270m").base == "google/gemma-3-270m"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"utlity": "exact_match"}, r"utlity: there is no such key; allowed are base, .*utility"),
        ({"hull": {"spce": "delta"}}, r"hull\.spce: there is no such key; allowed are space, include_base"),
        ({"hull": {"space": "deltas"}}, r"hull\.space: .*'delta' or 'factors'.*not 'deltas'"),
        ({"hull": {"density": 2.0}}, r"hull: density must be a number in \(0, 1\]"),
        ({"hull": {"max_rank": 0}}, r"hull\.max_rank: .*greater than or equal to 1, not 0"),
        ({"budget": {}}, r"budget: give either item_generations or evaluations"),
        ({"racing": {"blocks": [0.5]}}, r"racing: racing\.blocks must be growing shares that end with 1"),
        ({"preset": "papers"}, r"preset: .*'shoal' or 'paper', not 'papers'"),
        ({"preset": "paper", "racing": True}, r"racing is not part of the paper"),
        ({"champion": "three"}, r"champion must be one of one, two, base, not 'three'"),
        ({"experts": []}, r"experts: .*at least 1"),
        ({"experts": ["experts/one", "experts/one/"]}, r"two experts would be called one"),
        ({"experts": {"base": "experts/one"}}, r"'base' is what a report calls something else"),
        ({"experts": ["nowhere"]}, r"experts\.nowhere: .*is no PEFT folder"),
        ({"data": "nothing.jsonl"}, r"data\.file: there is no file .*nothing\.jsonl"),
        ({"data": {"search": 3}}, r"data: give one of file .*, files .* or lm_eval"),
        ({"base": "./nowhere"}, r"base: .*nowhere is no folder, and .* is no Hugging Face id"),
        ({"finalists": 0}, r"finalists: .*1, not 0"),
        ({"seed": -1}, r"seed: .*0, not -1"),
    ],
)
def test_what_is_wrong_is_named_with_what_is_allowed(folder: Path, changes: dict[str, object], told: str) -> None:
    """One line that names the file and the field, and says what may stand there."""
    with pytest.raises(BadConfig, match=rf"run\.yaml: .*{told}"):
        load(folder, **changes)


def test_everything_wrong_is_told_at_once(folder: Path) -> None:
    """Nobody mends a file error by error."""
    with pytest.raises(BadConfig) as caught:
        load(folder, seed="x", finalists=0, tuility=1)
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize("text", ["- a list", "a: [", ""])
def test_a_file_that_is_no_config_is_refused(folder: Path, text: str) -> None:
    """Not YAML, or YAML of something else."""
    (folder / "run.yaml").write_text(text)
    with pytest.raises(BadConfig, match=r"run\.yaml"):
        configs.load(folder / "run.yaml")
    with pytest.raises(BadConfig, match="cannot be read"):
        configs.load(folder / "absent.yaml")


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("exact_match", {"max_tokens": 9}, ("likelihood", {})),
        ("numeric", {}, ("likelihood", {})),
        ("multiple_choice", {"mode": "answer", "max_tokens": 9}, ("multiple_choice", {"smooth": True})),
        ("perplexity", {}, ("perplexity", {})),
        (
            "multi",
            {"tasks": {"a": "numeric", "b": {"name": "multiple_choice", "beta": 2.0}}},
            (
                "multi",
                {"tasks": {"a": {"name": "likelihood"}, "b": {"name": "multiple_choice", "beta": 2.0, "smooth": True}}},
            ),
        ),
    ],
)
def test_what_jumps_has_a_smooth_twin(name: str, options: dict[str, object], expected: tuple[str, object]) -> None:
    """The shoal preset climbs on it; it is a utility that can be made."""
    assert smooth(name, options) == expected
    made, parameters = smooth(name, options)
    assert utilities.make(made, **parameters).name == made


def test_the_presets_are_those_of_the_config() -> None:
    """What may be written is what there is."""
    assert set(PRESETS) == set(get_args(configs.PresetName))
