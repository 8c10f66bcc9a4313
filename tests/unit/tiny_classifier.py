"""Sequence classifiers that fit in a test, with letters as tokens: GPT-2 of one layer whose logits are set by hand.

Its layer adds nothing, so the logits of a text are those of its last token: of where it stands, or of which letter it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, GPT2Config, GPT2ForSequenceClassification

from tests.contract.tiny_model import make_base

POSITIONS = 128


def make_length_lover(folder: Path, base: Path) -> Path:
    """One output, which rises with the number of the text's tokens."""
    model = _silent(labels={0: "reward"})
    place = torch.arange(POSITIONS) / POSITIONS
    model.transformer.wpe.weight.data[:, 0] = place
    model.transformer.wpe.weight.data[:, 1] = -place
    model.transformer.wte.weight.data[:, 2] = 0.3
    model.transformer.wte.weight.data[:, 3] = -0.3
    model.score.weight.data[0, 0] = 4.0
    return _saved(model, folder, base)


def make_shout_detector(folder: Path, base: Path, **config: Any) -> Path:
    """Labels clean and rude: a text that ends with "!" is rude."""
    model = _silent(labels={0: "clean", 1: "rude"}, **config)
    shout = AutoTokenizer.from_pretrained(base).convert_tokens_to_ids("!")
    model.transformer.wte.weight.data[:, 0] = -1.0
    model.transformer.wte.weight.data[shout, 0] = 1.0
    model.transformer.wte.weight.data[:, 1] = 0.1
    model.score.weight.data[1, 0] = 2.0
    return _saved(model, folder, base)


def make_random(folder: Path, base: Path, **config: Any) -> Path:
    """A real, random classifier, always the same one: every token before the last counts."""
    torch.manual_seed(3)
    config = {"id2label": {0: "reward"}, "label2id": {"reward": 0}, "initializer_range": 0.5, **config}
    return _saved(GPT2ForSequenceClassification(_config(**config)), folder, base)


def make_letters(folder: Path) -> Path:
    """A base model, for its tokenizer; without a chat template, so that question and answer are a pair of texts."""
    make_base(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    return folder


def _config(**config: Any) -> GPT2Config:
    sizes = {"vocab_size": 128, "n_positions": POSITIONS, "n_embd": 8, "n_layer": 1, "n_head": 2}
    return GPT2Config(**sizes, bos_token_id=1, eos_token_id=2, **config)


def _silent(labels: dict[int, str], **config: Any) -> GPT2ForSequenceClassification:
    names = {"id2label": labels, "label2id": {name: number for number, name in labels.items()}}
    model = GPT2ForSequenceClassification(_config(**names, **config))
    for name, parameter in model.named_parameters():
        parameter.data = torch.full_like(parameter, float("ln_" in name and name.endswith("weight")))
    return model


def _saved(model: GPT2ForSequenceClassification, folder: Path, base: Path) -> Path:
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder
