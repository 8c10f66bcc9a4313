"""The judge of the swaps: which versions may have answered, and what counts as a mix."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bench.streams import Streamed
from bench.swap import Swaps, _check
from bench.versions import sums_of_two
from shoal.starter_pack import StarterPack

SAID = {"bot@1": {"q": "one", "same": "x"}, "bot@2": {"q": "two", "same": "x"}, "bot@3": {"q": "three", "same": "x"}}
MOVES = Swaps([(0.0, 0.0, "bot@1"), (10.0, 11.0, "bot@2"), (20.0, 21.0, "bot@3")])


def streamed(version: str, text: str, began: float, ended: float, prompt: str = "q") -> Streamed:
    return Streamed(prompt, frozenset({version}), text, began, began, ended)


@pytest.mark.parametrize(
    ("began", "ended", "expected"),
    [(5.0, 6.0, {"bot@1"}), (10.5, 12.0, {"bot@1", "bot@2"}), (22.0, 23.0, {"bot@2", "bot@3"})],
)
def test_the_versions_around_an_answer_are_those_that_may_have_given_it(
    began: float, ended: float, expected: set[str]
) -> None:
    assert MOVES.around(streamed("bot@1", "one", began, ended)) == expected


def test_an_answer_is_what_its_version_says_or_it_is_mixed() -> None:
    around = {"bot@1", "bot@2"}
    assert _check(streamed("bot@1", "one", 0, 1), around, SAID) is True
    assert _check(streamed("bot@1", "two", 0, 1), around, SAID) is False
    assert _check(streamed("bot@3", "three", 0, 1), around, SAID) is False


def test_a_prompt_that_all_versions_answer_alike_tells_nothing() -> None:
    assert _check(streamed("bot@1", "x", 0, 1, "same"), {"bot@1", "bot@2"}, SAID) is None


def test_an_answer_that_claims_two_versions_is_mixed() -> None:
    both = Streamed("q", frozenset({"bot@1", "bot@2"}), "one", 0, 0, 1)
    assert _check(both, {"bot@1", "bot@2"}, SAID) is False


@pytest.mark.parametrize("versions", [frozenset(), frozenset({"bot@3"}), frozenset({"nobody@1"})])
def test_an_answer_that_names_no_version_or_one_from_elsewhere_is_mixed(versions: frozenset[str]) -> None:
    assert _check(Streamed("same", versions, "x", 0, 0, 1), {"bot@1", "bot@2"}, SAID) is False


def test_a_sum_of_two_does_to_a_layer_what_both_do(tmp_path: Path) -> None:
    one, other = StarterPack.found().experts[:2]
    (made,) = sums_of_two((one, other), 1, tmp_path)
    left, right, both = (load_file(folder / "adapter_model.safetensors") for folder in (one, other, made))
    down = next(name for name in both if ".lora_A." in name)
    up = down.replace(".lora_A.", ".lora_B.")

    def update(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        return tensors[up].float() @ tensors[down].float()

    torch.testing.assert_close(update(both), update(left) + update(right))
