"""YAML that takes nothing for what it is not."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shoal.plain_yaml import load

WORDS = st.sampled_from(
    ["off", "No", "2026-01-01", "1:30", "1e5", "08", "010", "0x1f", "1_000", "=", "<<", "~", ".nan", "null"]
)
LINES = st.text(
    st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"])
)  # PyYAML's writer folds what Unicode calls a line's end
TEXTS = LINES | WORDS
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS
VALUES = st.recursive(SCALARS, lambda held: st.lists(held) | st.dictionaries(TEXTS, held), max_leaves=8)


@settings(deadline=None)
@given(VALUES)
@example({"off": "08"})
def test_what_is_dumped_is_read_as_it_was(value: Any) -> None:
    """`shoal policy show --yaml` is a file that `shoal policy set` takes: any JSON value of plain lines comes back."""
    assert load(yaml.safe_dump(value, allow_unicode=True)) == value


@pytest.mark.parametrize(
    "word", ["off", "on", "yes", "No", "y", "2026-01-01", "2026-01-01T00:00:00Z", "1:30", "010", "0x1f", "="]
)
def test_a_word_is_text(word: str) -> None:
    assert load(f"field: {word}") == {"field": word}


def test_what_json_has_is_read_as_such() -> None:
    told = load("{a: true, b: False, c: 12, d: -0.5, e: 1.5e+3, f: null, g: , h: [0]}")
    assert told == {"a": True, "b": False, "c": 12, "d": -0.5, "e": 1500.0, "f": None, "g": None, "h": [0]}
    assert load("base: &base {a: 1}\nmore: {<<: *base, b: 2}")["more"] == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    "text", ["[", "!!bool maybe", "!!int ''", "!!timestamp soon", "!!python/object:os.system {}", "[" * 5000]
)
def test_what_is_no_yaml_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        load(text)
