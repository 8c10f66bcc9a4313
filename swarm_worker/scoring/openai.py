"""The scoring engine on any OpenAI-compatible endpoint that can load adapters the way vLLM and SGLang do.

Candidates are written to a folder that this process and the server both see, made known with
``POST /v1/load_lora_adapter``, asked by their name, and unloaded. Answers come from ``chat/completions``; likelihoods from
``completions`` with ``echo``, which gives the log-probability of each token of a prompt: the chat is then rendered here,
with the base's own template, so that both sides know where the answer begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx
from openai import APIStatusError, OpenAI, OpenAIError

from swarm_worker.scoring.adapters import AdapterEngine, AdapterWriter, WrittenAdapter
from swarm_worker.scoring.chat import Chat, TokenisedAsked, TokenisedPair
from swarm_worker.scoring.engine import Asked, Prompt, Told

LOADING = (
    "the endpoint must load adapters while it runs: start vLLM with --enable-lora, --max-loras and --max-lora-rank and "
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its environment, or SGLang with --enable-lora; and give `shared` a folder "
    "that the server sees under the same path"
)
LIKELIHOODS = (
    "the endpoint must give the log-probabilities of a prompt (completions with echo and logprobs), as vLLM and SGLang "
    "do; with others use utilities that judge answers. vLLM 0.32 on CPU dies of it where adapters may change the output "
    "head: start it with --lora-target-modules and the linear layers"
)

T = TypeVar("T")
R = TypeVar("R")


class EndpointRefused(ValueError):
    """The endpoint cannot do what scoring needs; the message says what it said, and the remedy."""


class OpenAIEngine(AdapterEngine):
    """A ``ScoringEngine`` on an endpoint. A candidate whose rank is above ``max_lora_rank`` is cut to it, which ``identity``
    says. ``at_once``: adapters loaded together; no more than the server's own places (vLLM: ``--max-loras``).

    ``ask`` also raises ``EndpointRefused`` (a ``ValueError``) with the remedy where the endpoint cannot do it, and
    ``OpenAIError`` where it does not answer."""

    def __init__(
        self, client: OpenAI, chat: Chat, model: str, *, writer: AdapterWriter, at_once: int, in_flight: int
    ) -> None:
        self.identity = f"openai-{client.base_url}-{model}-rank{writer.max_rank}"
        super().__init__(chat, writer, at_once)
        self._client = client
        self._model = model
        self._in_flight = in_flight
        self._context: int | None = None

    @classmethod
    def load(
        cls,
        base: Path | str,
        experts: Sequence[Path] = (),
        *,
        url: str,
        model: str,
        api_key: str = "none",
        shared: Path | None = None,
        max_loras: int = 4,
        max_lora_rank: int = 16,
        in_flight: int = 32,
        retries: int = 4,
        timeout: float = 300.0,
    ) -> Self:
        """``base``: where the base's tokenizer and chat template are; ``url``: the endpoint's, with ``/v1``; ``model``: what
        it calls the base; ``shared``: a folder that the server sees, too (None: memory or temporary files of one machine).
        ``retries``: of a request that failed, with growing pauses; ``timeout``: of one, in seconds."""
        client = OpenAI(base_url=url, api_key=api_key, max_retries=retries, timeout=timeout)
        writer = AdapterWriter(max_lora_rank, None, shared)
        engine = cls(client, Chat.load(base), model, writer=writer, at_once=max_loras, in_flight=in_flight)
        if experts:
            engine.set_experts(experts)
        return engine

    @property
    def context(self) -> int:
        """What the endpoint says of itself (vLLM: ``max_model_len``), less the one token that it generates after a prompt
        that is only read; without bounds where it says nothing."""
        if self._context is None:
            entries = {entry.id: entry.model_dump() for entry in self._client.models.list()}
            if self._model not in entries:
                raise EndpointRefused(f"the endpoint has no model {self._model!r}; it has {', '.join(entries)}")
            self._context = int(entries[self._model].get("max_model_len") or 2**31) - 1
        return self._context

    def _ask_base(self, question: TokenisedAsked, asked: Asked) -> Told:
        return self._tell([self._model], question, asked)[0]

    def _ask_adapters(self, adapters: Sequence[WrittenAdapter], question: TokenisedAsked, asked: Asked) -> list[Told]:
        with self._loaded(adapters) as names:
            return self._tell(names, question, asked)

    @contextmanager
    def _loaded(self, adapters: Sequence[WrittenAdapter]) -> Iterator[list[str]]:
        loaded: list[str] = []
        try:
            for adapter in adapters:
                self._post("load_lora_adapter", lora_name=adapter.name, lora_path=str(adapter.folder))
                loaded.append(adapter.name)
            yield loaded
        except BaseException:
            with suppress(OpenAIError, EndpointRefused):  # what went wrong first is what is told
                self._unload(loaded)
            raise
        self._unload(loaded)

    def _unload(self, names: Sequence[str]) -> None:
        for name in names:
            self._post("unload_lora_adapter", lora_name=name)

    def _post(self, path: str, **body: str) -> None:
        try:
            self._client.post(f"/{path}", cast_to=httpx.Response, body=body)
        except APIStatusError as error:
            raise EndpointRefused(f"{path} was answered {error.status_code} ({_said(error)}): {LOADING}") from error

    def _tell(self, models: Sequence[str], question: TokenisedAsked, asked: Asked) -> list[Told]:
        """Every question to every model, ``in_flight`` requests at a time."""
        read = [(model, pair) for model in models for pair in question.pairs]
        write = [(model, prompt, asked.max_tokens) for model in models for prompt in asked.answers]
        with ThreadPoolExecutor(self._in_flight) as threads:
            totals, answers = _all(threads, self._total, read), _all(threads, self._answer, write)
        n, m = len(question.pairs), len(asked.answers)
        return [question.told(totals[i * n : (i + 1) * n], answers[i * m : (i + 1) * m]) for i in range(len(models))]

    def _total(self, question: tuple[str, TokenisedPair]) -> float:
        model, pair = question
        tokens = list(pair.prompt + pair.answer)
        try:
            reply = self._client.completions.create(
                model=model, prompt=tokens, max_tokens=1, temperature=0, echo=True, logprobs=1
            )
        except APIStatusError as error:
            if error.status_code in (400, 404, 405, 422, 501):
                raise EndpointRefused(
                    f"completions was answered {error.status_code} ({_said(error)}): {LIKELIHOODS}"
                ) from error
            raise
        told = reply.choices[0].logprobs
        found = (told.token_logprobs or []) if told else []
        if len(found) < len(tokens):
            raise EndpointRefused(f"log-probabilities came for {len(found)} of {len(tokens)} tokens: {LIKELIHOODS}")
        answer = [one for one in found[len(pair.prompt) : len(tokens)] if one is not None]
        if len(answer) < len(pair.answer):
            raise EndpointRefused(f"a log-probability is missing: {LIKELIHOODS}")
        return sum(answer)

    def _answer(self, question: tuple[str, Prompt, int]) -> str:
        model, prompt, max_tokens = question
        # Where the model's own settings would have it sample, or punish repetition, greedy must still mean greedy.
        common: dict[str, Any] = {
            "model": model,
            "max_tokens": max_tokens,
            "temperature": 0,
            "extra_body": {"stop_token_ids": self._chat.stops, "repetition_penalty": 1.0},
        }
        if isinstance(prompt, str):
            return self._client.completions.create(prompt=prompt, **common).choices[0].text
        messages: Any = prompt
        return self._client.chat.completions.create(messages=messages, **common).choices[0].message.content or ""


def _all(threads: ThreadPoolExecutor, ask: Callable[[T], R], questions: Sequence[T]) -> list[R]:
    """Every answer, in order; after the first failure what has not begun is not begun."""
    futures = [threads.submit(ask, question) for question in questions]
    try:
        return [future.result() for future in futures]
    except (OpenAIError, ValueError):
        for future in futures:
            future.cancel()
        raise


def _said(error: APIStatusError) -> str:
    return " ".join(error.message.split())[:300]
