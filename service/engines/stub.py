"""A deterministic engine without a model: it says who answers and repeats what it was asked. For tests and dry runs.

It keeps every promise of the Engine protocol and passes the same contract test as vLLM. It reads adapters from their
files, so an adapter that does nothing fails its probe here too; it knows no probabilities, so it has no logprobs.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from service.engine import (
    AdapterRefused,
    Answer,
    EngineError,
    EngineFull,
    EngineSettings,
    EngineUnavailable,
    Probe,
    UnknownAdapter,
)
from service.engines.adapter_files import AdapterFiles, read_adapter, reason_to_refuse

CONTEXT = 256  # words, where the settings name no max_model_len
PACE = "--seconds-per-token"
MAX_TOKENS = 16  # words of an answer, where the body names none


def _pace(arguments: tuple[str, ...]) -> float:
    """``--seconds-per-token 0.05`` of SHOAL_ENGINE_ARGS: for answers that take a while in a process of their own."""
    return float(arguments[arguments.index(PACE) + 1]) if PACE in arguments else 0.0


class StubEngine:
    """The Engine protocol with words for tokens. A word takes ``seconds_per_token``: answers can be in flight."""

    def __init__(self, settings: EngineSettings, *, seconds_per_token: float = 0.0) -> None:
        self.settings = settings
        self.seconds_per_token = seconds_per_token or _pace(settings.extra_args)
        self.running = 0  # answers being made now
        self._adapters: dict[str, AdapterFiles] = {}
        self._paths: dict[str, Path] = {}
        self._alive = False

    @property
    def alive(self) -> bool:
        return self._alive

    @property
    def max_model_len(self) -> int:
        return self.settings.max_model_len or CONTEXT

    async def start(self) -> None:
        self._alive = True

    async def stop(self) -> None:
        self._alive = False
        self._adapters.clear()

    async def add(self, name: str, path: Path) -> None:
        self._require()
        if (known := self._paths.get(name)) is not None and known != path:
            raise AdapterRefused(name, f"the name stands for {known}")
        if name in self._adapters:
            return
        if len(self._adapters) >= self.settings.max_loras:
            raise EngineFull(name, self.settings.max_loras)
        try:
            files = read_adapter(path)
        except ValueError as error:
            raise AdapterRefused(name, str(error)) from error
        if reason := reason_to_refuse(files, self.settings.max_lora_rank, self.settings.lora_modules):
            raise AdapterRefused(name, reason)
        self._paths[name] = path
        self._adapters[name] = files

    async def remove(self, name: str) -> None:
        self._require()
        self._adapters.pop(name, None)

    async def held(self) -> frozenset[str]:
        self._require()
        return frozenset(self._adapters)

    async def probe(self, name: str, within: float) -> Probe:
        self._require()
        if name not in self._adapters:
            raise UnknownAdapter(name)
        idle = self._adapters[name].idle
        return Probe(finite=True, differs=not idle, largest_difference=0.0 if idle else 1.0)

    async def chat(self, body: dict[str, Any], model: str | None, request_id: str) -> Answer:
        messages = body.get("messages")
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            raise EngineError(400, None, "Input should be a valid list", "messages")
        asked = str(messages[-1].get("content") or "") if messages else ""
        head = {"id": f"chatcmpl-{request_id}", "object": "chat.completion", "created": int(time.time())}
        return await self._answer(body, model, asked, head)

    async def complete(self, body: dict[str, Any], model: str | None, request_id: str) -> Answer:
        prompt = body.get("prompt")
        if not isinstance(prompt, str) or not prompt:
            raise EngineError(400, None, "Either prompt or prompt_embeds must be provided and non-empty.", "prompt")
        head = {"id": f"cmpl-{request_id}", "object": "text_completion", "created": int(time.time())}
        return await self._answer(body, model, prompt, head)

    async def _answer(self, body: dict[str, Any], model: str | None, asked: str, head: dict[str, Any]) -> Answer:
        self._require()
        if model is not None and model not in self._adapters:
            raise UnknownAdapter(model)
        words, finish = self._words(body, model, asked)
        head |= {"model": model or self.settings.served_base_name}
        if body.get("stream") is True:
            return self._events(words, finish, head)
        said = "".join([word async for word in self._paced(words)])
        shape = {"message": {"role": "assistant", "content": said}} if "chat" in head["object"] else {"text": said}
        usage = {"prompt_tokens": len(asked.split()), "completion_tokens": len(words)}
        usage["total_tokens"] = sum(usage.values())
        return {**head, "choices": [{"index": 0, **shape, "finish_reason": finish}], "usage": usage}

    def _words(self, body: dict[str, Any], model: str | None, asked: str) -> tuple[list[str], str]:
        """The answer, word by word, and why it ends. Checks what the real engine checks, as far as tests ask."""
        limit = body.get("max_tokens") or body.get("max_completion_tokens") or MAX_TOKENS
        if not isinstance(limit, int) or limit < 1:
            raise EngineError(400, None, "Input should be a valid integer", "max_tokens")
        if (body.get("temperature") or 0) < 0:
            raise EngineError(400, None, "temperature must be non-negative", "temperature")
        if len(asked.split()) >= self.max_model_len:
            told = f"This model's maximum context length is {self.max_model_len} tokens."
            raise EngineError(400, "context_length_exceeded", told, "input_tokens")
        words = [f"{word} " for word in [f"{model or self.settings.served_base_name}:", *asked.split()]]
        return words[:limit], "length" if len(words) > limit else "stop"

    async def _paced(self, words: list[str]) -> AsyncIterator[str]:
        self.running += 1
        try:
            for word in words:
                await asyncio.sleep(self.seconds_per_token)
                self._require()
                yield word
        finally:
            self.running -= 1

    async def _events(self, words: list[str], finish: str, head: dict[str, Any]) -> AsyncIterator[str]:
        chat = "chat" in head["object"]
        head = {**head, "object": "chat.completion.chunk" if chat else "text_completion"}

        def event(word: str, reason: str | None) -> str:
            shape: dict[str, Any] = {"delta": {"content": word}} if chat else {"text": word}
            return f"data: {json.dumps({**head, 'choices': [{'index': 0, **shape, 'finish_reason': reason}]})}\n\n"

        paced = self._paced(words)
        try:
            async for word in paced:
                yield event(word, None)
        finally:
            await paced.aclose()  # type: ignore[attr-defined]  # a generator, typed as what callers need of it
        yield event("", finish)
        yield "data: [DONE]\n\n"

    def _require(self) -> None:
        if not self._alive:
            raise EngineUnavailable()
