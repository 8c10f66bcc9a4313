"""Prompts and answers as tokens, the way the service sees them: the base model's chat template, or plain text."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from swarm_worker.scoring.engine import Asked, Likelihood, Prompt, Told

CACHED_PAIRS = 50_000


@dataclass(frozen=True, slots=True)
class TokenisedPair:
    """A prompt and an answer to it, neither without tokens."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True, slots=True)
class TokenisedAsked:
    """An ``Asked`` in tokens: the same for every model that it is put to."""

    pairs: tuple[TokenisedPair, ...]
    prompts: tuple[tuple[int, ...], ...]
    max_tokens: int

    def told(self, totals: Iterable[float], answers: Iterable[str]) -> Told:
        """The reply, from the summed log-likelihood of each pair and the answer to each prompt."""
        likelihoods = (Likelihood(float(t), len(pair.answer)) for t, pair in zip(totals, self.pairs, strict=True))
        return Told(tuple(likelihoods), tuple(answers))


class Chat:
    """Tokenises; keeps what it tokenised, for a search scores the same items hundreds of times."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, generation: GenerationConfig) -> None:
        self._tokenizer = tokenizer
        self._pairs: dict[tuple[str, str, bool], TokenisedPair] = {}
        self._end_of_text = _required_end(tokenizer)
        self._end_of_turn = self._find_end_of_turn()
        configured = generation.eos_token_id
        listed = configured if isinstance(configured, list) else [] if configured is None else [configured]
        # Every token at which the model's answer is over.
        self.stops: list[int] = sorted({*listed, self._end_of_text, self._end_of_turn})
        self.padding: int = self._end_of_text

    @classmethod
    def load(cls, base: Path | str) -> Self:
        """Of the base model in a local folder, or by its Hugging Face id."""
        try:
            generation = GenerationConfig.from_pretrained(base)  # it may name tokens at which an answer ends
        except OSError:
            generation = GenerationConfig()
        return cls(AutoTokenizer.from_pretrained(base), generation)

    def prompt_tokens(self, prompt: Prompt) -> tuple[int, ...]:
        """The prompt as the model sees it before it answers."""
        if isinstance(prompt, str):
            return tuple(self._tokenizer(prompt).input_ids)
        rendered = self._tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
        return tuple(self._tokenizer(rendered, add_special_tokens=False).input_ids)

    def tokenise(self, prompt: Prompt, answer: str, closed: bool = True) -> TokenisedPair:
        """``closed``: the answer ends with the token that ends an answer. Raises ``ValueError`` for an open, empty one."""
        key = (prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True), answer, closed)
        pair = self._pairs.get(key)
        if pair is None:
            end = self._end_of_text if isinstance(prompt, str) else self._end_of_turn
            tokens = self._tokenizer(answer, add_special_tokens=False).input_ids
            if not closed and not tokens:
                raise ValueError("an open answer must not be empty: it has no token to be scored")
            pair = TokenisedPair(self.prompt_tokens(prompt), (*tokens, end) if closed else tuple(tokens))
            if len(self._pairs) >= CACHED_PAIRS:
                self._pairs.clear()
            self._pairs[key] = pair
        return pair

    def tokenise_all(self, asked: Asked, context: int) -> TokenisedAsked:
        """Raises ``ValueError`` for a question that does not fit ``context`` with its answer."""
        pairs = tuple(self.tokenise(*question) for question in asked.likelihoods)
        prompts = tuple(self.prompt_tokens(prompt) for prompt in asked.answers)
        lengths = [len(pair) for pair in pairs] + [len(prompt) + asked.max_tokens for prompt in prompts]
        if max(lengths, default=0) > context:
            raise ValueError(f"an item of {max(lengths)} tokens does not fit the model's context of {context}")
        return TokenisedAsked(pairs, prompts, asked.max_tokens)

    def text_of(self, answer: list[int]) -> str:
        """The text of generated tokens up to the first that ends an answer."""
        end = next((i for i, token in enumerate(answer) if token in self.stops), len(answer))
        return self._tokenizer.decode(answer[:end], skip_special_tokens=True)

    def _find_end_of_turn(self) -> int:
        """What the chat template puts after an assistant's answer: often not the end-of-text token."""
        if not self._tokenizer.chat_template:
            return self._end_of_text
        content = "answer"
        messages: list[dict[str, Any]] = [
            {"role": "user", "content": "question"},
            {"role": "assistant", "content": content},
        ]
        rendered = str(self._tokenizer.apply_chat_template(messages, tokenize=False))
        after = self._tokenizer(rendered.rpartition(content)[2].lstrip(), add_special_tokens=False).input_ids
        special = set(self._tokenizer.all_special_ids) | set(self._tokenizer.get_added_vocab().values())
        return after[0] if after and after[0] in special else self._end_of_text


def _required_end(tokenizer: PreTrainedTokenizerBase) -> int:
    end = tokenizer.eos_token_id
    if end is None:
        raise ValueError("the base model's tokenizer names no end-of-text token")
    return int(end)
