"""A token swarm on real models: two bases of the starter family, which share a tokenizer and know different things."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from starter import skills
from swarm_worker import search
from swarm_worker.scorer import Scorer, climb
from swarm_worker.scoring.token_mix import TokenMixEngine
from swarm_worker.utilities import Item, make

PACK = Path(skills.__file__).parent


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Whole models: the starter's base with what one expert learned, and with what another one did."""
    torch.set_num_threads(1)
    folders = []
    for skill in ("sort", "mask"):
        model = AutoModelForCausalLM.from_pretrained(PACK / "base", dtype=torch.float32)
        merged = PeftModel.from_pretrained(model, str(PACK / "experts" / skill)).merge_and_unload()
        folder = tmp_path_factory.mktemp("bases") / skill
        merged.save_pretrained(folder)
        AutoTokenizer.from_pretrained(PACK / "base").save_pretrained(folder)
        folders.append(folder)
    return folders


def test_a_published_swarm_mixes_two_bases_of_the_starter_family(bases: list[Path]) -> None:
    """The paper's rules, unchanged, on next-token distributions: it finds a mix of both that is better than either."""
    drawn = [*skills.items("sort", "traffic", 12, seed=3), *skills.items("mask", "traffic", 12, seed=3)]
    items = [Item(messages=[{"role": "user", "content": item.prompt}], good=item.answer) for item in drawn]
    scorer = Scorer(TokenMixEngine.load(PACK / "base", bases), make("likelihood"), items)
    swarm = search.make("model_swarms", preset="paper", n_experts=2, seed=0, particles=6, max_generations=3)
    alone = [scorer((1.0, 0.0)), scorer((0.0, 1.0))]

    best = climb(swarm, scorer)

    assert best.utility > max(alone) + 0.001
    assert sum(best.coefficients) == pytest.approx(1.0)
    assert all(0.0 < coefficient < 1.0 for coefficient in best.coefficients)
