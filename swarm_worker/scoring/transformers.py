"""The scoring engine for CPU: one resident base model, candidates merged into its weights, one after the other.

A merge always starts from the saved copy of the base's weights, so nothing drifts: the thousandth candidate scores
what it would score as the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from swarm_worker.hull import ExpertStack, Space
from swarm_worker.scoring.batches import batches, left_padded, right_padded
from swarm_worker.scoring.chat import Chat
from swarm_worker.scoring.engine import BASE, AdapterFolder, Candidate, Prompt, Scored, TokenisedPair
from swarm_worker.scoring.float32 import speed_up_linears

# Tokens (padding included) of a forward pass, and float32 logits kept of it: the bounds of a batch. On a 2M-parameter
# model 512 to 2,048 tokens are equally fast, 8,192 leave the cache and take up to twice as long.
BATCH_TOKENS = 1_024
BATCH_LOGITS = 2**26  # 256 MB
GENERATE_ROWS = 128


class TransformersEngine:
    """A ``ScoringEngine`` on ``transformers``, float32. Not safe for use by two threads at a time."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.identity = "transformers-float32"
        self._model = model.eval().requires_grad_(False)
        speed_up_linears(model)
        self._chat = Chat(tokenizer, model.generation_config)
        self._base_weights: dict[str, torch.Tensor] = {}
        self._merged: Scored = BASE
        self._experts: ExpertStack | None = None
        self._expert_folders: tuple[Path, ...] = ()
        self._adapter: tuple[Path, ExpertStack] | None = None

    @classmethod
    def load(cls, base: Path | str, experts: Sequence[Path] = ()) -> Self:
        """The base model in a local folder (or by its Hugging Face id), in float32, and the experts of the search."""
        disable_progress_bar()  # a worker's log is read line by line
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        engine = cls(model, AutoTokenizer.from_pretrained(base))
        if experts:
            engine.set_experts(experts)
        return engine

    def set_experts(self, folders: Sequence[Path]) -> None:
        """Raises ``UnusableExpert``, or ``ValueError`` where an expert adapts a module that cannot be merged into."""
        if tuple(folders) == self._expert_folders:
            return
        self._merge(BASE)  # coefficients of the last stack mean nothing in the next
        self._experts = ExpertStack.load(list(folders))
        self._expert_folders = tuple(folders)

    def tokenise(self, prompt: Prompt, answer: str) -> TokenisedPair:
        return self._chat.tokenise(prompt, answer)

    @torch.inference_mode()
    def log_likelihoods(self, scored: Scored, pairs: Sequence[TokenisedPair]) -> list[float]:
        self._merge(scored)
        self._require_context(max((len(pair) for pair in pairs), default=0))
        scores = [0.0] * len(pairs)
        vocabulary = self._model.config.get_text_config().vocab_size
        for rows in batches([len(pair) for pair in pairs], BATCH_TOKENS):
            for part in self._fitting(rows, pairs, vocabulary):
                means = self._mean_log_likelihoods([pairs[row] for row in part])
                for row, mean in zip(part, means, strict=True):
                    scores[row] = mean
        return scores

    @torch.inference_mode()
    def generate(self, scored: Scored, prompts: Sequence[Prompt], max_tokens: int) -> list[str]:
        self._merge(scored)
        tokens = [self._chat.prompt_tokens(prompt) for prompt in prompts]
        self._require_context(max((len(t) for t in tokens), default=0) + max_tokens)
        answers = [""] * len(prompts)
        longest = max((len(t) for t in tokens), default=0) + max_tokens
        for rows in batches([len(t) for t in tokens], GENERATE_ROWS * longest, max_rows=GENERATE_ROWS):
            generated = self._generate([tokens[row] for row in rows], max_tokens)
            for row, answer in zip(rows, generated, strict=True):
                answers[row] = self._chat.text_of(answer)
        return answers

    def _mean_log_likelihoods(self, pairs: list[TokenisedPair]) -> list[float]:
        """Right-padded: a causal model's real tokens do not see the padding after them, and keep their positions."""
        input_ids, attention_mask = right_padded([pair.prompt + pair.answer for pair in pairs])
        first, last = min(len(pair.prompt) for pair in pairs), input_ids.shape[1]
        # The logits at position t speak of token t + 1.
        kept = torch.arange(first - 1, last - 1)
        logits = self._model(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=False, logits_to_keep=kept
        ).logits
        targets = torch.full((len(pairs), last - first), -100)
        for row, pair in enumerate(pairs):
            begin = len(pair.prompt) - first
            targets[row, begin : begin + len(pair.answer)] = torch.tensor(pair.answer)
        losses = nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
        lengths = torch.tensor([len(pair.answer) for pair in pairs])
        return (-losses.view(targets.shape).sum(dim=1) / lengths).tolist()

    def _fitting(self, rows: list[int], pairs: Sequence[TokenisedPair], vocabulary: int) -> list[list[int]]:
        """``rows`` in parts whose logits fit: a vocabulary of 262k is a megabyte a token."""
        kept = max(len(pairs[row]) for row in rows) - min(len(pairs[row].prompt) for row in rows)
        size = max(1, BATCH_LOGITS // (kept * vocabulary))
        return [rows[start : start + size] for start in range(0, len(rows), size)]

    def _generate(self, prompts: list[tuple[int, ...]], max_tokens: int) -> list[list[int]]:
        input_ids, attention_mask = left_padded(prompts, self._chat.padding)
        output = self._model.generate(
            input_ids=input_ids,
            attention_mask=attention_mask,
            max_new_tokens=max_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            eos_token_id=self._chat.stops,
            pad_token_id=self._chat.padding,
        )
        return output[:, input_ids.shape[1] :].tolist()

    @property
    def context(self) -> int:
        """Tokens that a prompt and its answer may have together."""
        return int(getattr(self._model.config.get_text_config(), "max_position_embeddings", None) or 2**31)

    def _require_context(self, length: int) -> None:
        if length > self.context:
            raise ValueError(f"an item of {length} tokens does not fit the model's context of {self.context}")

    def _merge(self, scored: Scored) -> None:
        """Make the model's weights those of ``scored``."""
        if scored == self._merged:
            return
        self._restore()
        if isinstance(scored, Candidate):
            if self._experts is None:
                raise ValueError("a candidate needs experts: call set_experts first")
            self._add(self._experts, scored.coefficients, scored.space)
        elif isinstance(scored, AdapterFolder):
            self._add(self._adapter_stack(scored.folder), (1.0,), "delta")
        self._merged = scored

    def _restore(self) -> None:
        for name, weight in self._base_weights.items():
            self._model.get_submodule(name).weight.copy_(weight)
        self._merged = BASE

    def _add(self, stack: ExpertStack, coefficients: Sequence[float], space: Space) -> None:
        for name in stack.modules:
            base = self._saved(name)
            self._model.get_submodule(name).weight.copy_(base + stack.update(name, coefficients, space))

    def _saved(self, name: str) -> torch.Tensor:
        """The base's own weight of a linear module, copied before it is first changed."""
        if name not in self._base_weights:
            try:
                module: Any = self._model.get_submodule(name)
            except AttributeError as error:
                raise ValueError(f"the base model has no module {name}") from error
            if not isinstance(module, nn.Linear):
                raise ValueError(f"{name} is a {type(module).__name__}; only linear modules can be merged into")
            if module.weight is self._model.get_input_embeddings().weight:
                raise ValueError(f"{name} is tied to the input embeddings: merging into it would change those too")
            self._base_weights[name] = module.weight.clone()
        return self._base_weights[name]

    def _adapter_stack(self, folder: Path) -> ExpertStack:
        if self._adapter is None or self._adapter[0] != folder:
            self._adapter = (folder, ExpertStack.load([folder]))
        return self._adapter[1]
