"""How Model Swarms' reference code scores a candidate: load the base and the adapter from disk, ten items at a time.

Written anew from the scheme, with the library calls that it makes; its faults other than speed are left out: an attention
mask is given, and padding does not shift positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from swarm_worker.scoring.engine import Asked, Likelihood, Prompt, Question, Told

BATCH = 10


class FromDisk:
    """The tokenizer is loaded once; the model anew for every candidate."""

    def __init__(self, base: Path) -> None:
        disable_progress_bar()
        self.base = base
        self.tokenizer = AutoTokenizer.from_pretrained(base, padding_side="left")

    @torch.no_grad()
    def ask(self, adapter: Path, asked: Asked) -> Told:
        model = AutoModelForCausalLM.from_pretrained(self.base, dtype=torch.float32)
        model = PeftModel.from_pretrained(model, str(adapter)).eval()
        likelihoods = [one for part in _tens(asked.likelihoods) for one in self._likelihoods(model, part)]
        answers = [one for part in _tens(asked.answers) for one in self._generate(model, part, asked.max_tokens)]
        return Told(tuple(likelihoods), tuple(answers))

    def _likelihoods(self, model: Any, questions: Sequence[Question]) -> list[Likelihood]:
        end = self.tokenizer.eos_token
        prompts = [self._text(question.prompt) for question in questions]
        endings = [question.answer + (end if question.closed else "") for question in questions]
        inputs = self._tokens([prompt + ending for prompt, ending in zip(prompts, endings, strict=True)])
        log_p = model(**inputs).logits.log_softmax(dim=-1)[:, :-1]
        found = log_p.gather(2, inputs["input_ids"][:, 1:, None])[..., 0]
        sizes = [len(self.tokenizer(ending, add_special_tokens=False).input_ids) for ending in endings]
        return [Likelihood(float(row[-size:].sum()), size) for row, size in zip(found, sizes, strict=True)]

    def _generate(self, model: Any, prompts: Sequence[Prompt], max_tokens: int) -> list[str]:
        inputs = self._tokens([self._text(prompt) for prompt in prompts])
        output = model.generate(
            **inputs, max_new_tokens=max_tokens, do_sample=False, pad_token_id=self.tokenizer.eos_token_id
        )
        answers: list[str] = self.tokenizer.batch_decode(
            output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        return answers

    def _text(self, prompt: Prompt) -> str:
        if isinstance(prompt, str):
            return prompt
        return str(self.tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False))

    def _tokens(self, texts: list[str]) -> dict[str, torch.Tensor]:
        encoded = self.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        mask = encoded["attention_mask"]
        return {"input_ids": encoded["input_ids"], "attention_mask": mask}


def _tens(whole: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (whole[start : start + BATCH] for start in range(0, len(whole), BATCH))
