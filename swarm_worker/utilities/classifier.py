"""A local sequence classifier that judges texts: a reward model, a toxicity classifier.

Loaded once a process, whatever asks for it; from safetensors only, without code from its folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from swarm_worker.scoring.engine import Prompt

BATCH = 16


class Judged(NamedTuple):
    """A text for the classifier: an answer, with or without the question it answers."""

    question: Prompt | None
    answer: str


class Classifier:
    """Logits of texts, float32. A text's logits do not depend on its batch (float noise aside): padding is masked."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        # Decoder models read the last token that is not padding, and take its id from here.
        model.config.get_text_config().pad_token_id = model.config.pad_token_id = tokenizer.pad_token_id
        tokenizer.padding_side = "right"
        tokenizer.truncation_side = "left"  # the end of a long text is the answer that is judged
        self._model = model.eval().requires_grad_(False)
        self._tokenizer = tokenizer
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2**31
        self._longest = min(int(tokenizer.model_max_length), int(positions))

    @classmethod
    @lru_cache(maxsize=4)
    def load(cls, model: str) -> Self:
        """A folder, or a Hugging Face id. Raises ``ValueError`` where it is no trained classifier in safetensors."""
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # a worker's log is read line by line
        try:
            loaded, found = AutoModelForSequenceClassification.from_pretrained(
                model, use_safetensors=True, trust_remote_code=False, dtype=torch.float32, output_loading_info=True
            )
            tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ValueError(f"model {model!r} cannot be loaded as a sequence classifier: {error}") from error
        if found["missing_keys"]:
            missing = ", ".join(sorted(found["missing_keys"])[:3])
            raise ValueError(f"model {model!r} is no trained classifier: it has no {missing}")
        return cls(loaded.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer)

    @property
    def labels(self) -> list[str]:
        """What the logits stand for, in order."""
        names = self._model.config.id2label
        return [names[i] for i in range(self._model.config.num_labels)]

    @property
    def exclusive(self) -> bool:
        """Whether exactly one label is true of a text (softmax), not each for itself (sigmoid)."""
        return len(self.labels) > 1 and self._model.config.problem_type != "multi_label_classification"

    def logits(self, texts: Sequence[Judged]) -> NDArray[np.float64]:
        """(texts, labels). A question and its answer are rendered by the chat template, else given as a pair of texts; of a
        text longer than the classifier reads, the end is kept. No text may be empty: it has no token to be judged by."""
        import torch

        rows = [self._tokenise(text) for text in texts]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]["input_ids"]))
        found = np.empty((len(rows), len(self.labels)))
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            padded = self._tokenizer.pad([rows[i] for i in batch], return_tensors="pt").to(self._model.device)
            with torch.inference_mode():
                found[batch] = self._model(**padded).logits.double().cpu().numpy()
        return found

    def _tokenise(self, text: Judged) -> dict[str, list[int]]:
        limit = {"truncation": True, "max_length": self._longest}
        if text.question is None:
            return dict(self._tokenizer(text.answer, **limit))
        if self._tokenizer.chat_template:
            question = text.question
            turns = [{"role": "user", "content": question}] if isinstance(question, str) else list(question)
            turns.append({"role": "assistant", "content": text.answer})
            rendered = self._tokenizer.apply_chat_template(turns, tokenize=False)
            return dict(self._tokenizer(rendered, add_special_tokens=False, **limit))
        return dict(self._tokenizer(as_text(text.question), text.answer, **limit))


def as_text(question: Prompt) -> str:
    """A question for a reader without a chat template: the lone user message as it is, several with their roles."""
    if isinstance(question, str):
        return question
    if len(question) == 1:
        return str(question[0]["content"])
    return "\n".join(f"{message['role']}: {message['content']}" for message in question)
