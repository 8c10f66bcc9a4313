"""What the service asks of an inference engine: one base model, some adapters on top, answers in OpenAI's shape.

Errors that an engine raises, with the status each becomes:

    EngineError              (its own status)  anything an engine says no to; ``code`` and ``param`` as OpenAI has them
    |- UnknownAdapter        404               a name that the engine does not hold
    |- AdapterRefused        422               the engine could not load it, or the name stands for another path
    |- EngineFull            409               as many adapters as the engine may hold are in it already
    `- EngineUnavailable     503               not started, stopping, or dead

Implementations: ``service/engines/vllm.py`` (the real one), ``service/engines/stub.py`` (deterministic, no model).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear layers of Llama, Mistral, Qwen, Gemma and their like."""


class EngineError(Exception):
    """A request or a change that the engine refused; carries what OpenAI's error body needs."""

    def __init__(self, status: int, code: str | None, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param


class UnknownAdapter(EngineError):
    """No adapter of this name is in the engine."""

    def __init__(self, name: str) -> None:
        super().__init__(404, "model_not_found", f"The model `{name}` does not exist.", "model")
        self.name = name


class AdapterRefused(EngineError):
    """The engine cannot load this adapter; ``reason`` is the engine's own."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(422, "adapter_refused", f"The engine cannot load `{name}`: {reason}")
        self.name = name
        self.reason = reason


class EngineFull(EngineError):
    """The engine holds ``capacity`` adapters already: remove one first."""

    def __init__(self, name: str, capacity: int) -> None:
        super().__init__(409, "engine_full", f"No room for `{name}`: {capacity} adapters are loaded already.")
        self.name = name
        self.capacity = capacity


class EngineUnavailable(EngineError):
    """The engine does not answer: not started yet, stopping, or dead."""

    def __init__(self, message: str = "The engine is not available.") -> None:
        super().__init__(503, "engine_unavailable", message)


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How an engine is started. Fixed for the engine's life: changing one means starting another engine.

    ``max_loras`` is the number N of adapters that may be resident at once; an implementation may set more slots aside
    for itself. ``max_lora_rank`` costs every request, whatever an adapter's own rank: keep it as low as the adapters
    allow (1, 8, 16, 32, 64, 128, 256, 320 or 512). ``lora_modules`` are the linear layers that adapters may change, by
    the last part of their name: other layers cost nothing, and an adapter with one of them is refused. None: whatever
    the engine can adapt, the output head with it. ``kv_cache_gib`` is used on CPU, ``gpu_memory_utilization`` on GPU.
    ``tool_call_parser`` turns on tool choice "auto". ``extra_args`` go to the engine's command line as they are.
    """

    base: str
    served_base_name: str = "base"
    dtype: str = "auto"
    max_loras: int = 4
    max_lora_rank: int = 16
    lora_modules: tuple[str, ...] | None = LINEAR_LAYERS
    max_model_len: int | None = None
    max_num_seqs: int = 64
    kv_cache_gib: float = 1.0
    enforce_eager: bool = True
    gpu_memory_utilization: float = 0.9
    seed: int = 0
    tool_call_parser: str | None = None
    chat_template: str | None = None
    extra_args: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if self.max_loras < 1:
            raise ValueError(f"max_loras must be at least 1, is {self.max_loras}")
        if "@" in self.served_base_name:
            raise ValueError(f"the base's name may not look like a version: {self.served_base_name!r}")


@dataclass(frozen=True, slots=True)
class Probe:
    """What an adapter did to the base's log-probabilities on fixed prompts.

    ``finite``: no NaN, no infinity. ``differs``: the largest difference stands out of the engine's own noise, measured
    by asking the base twice; an adapter that does not differ does nothing. ``largest_difference`` is in nats.
    """

    finite: bool
    differs: bool
    largest_difference: float


Answer = dict[str, Any] | AsyncIterator[str]
"""A JSON-able body, or, where the body asked for ``stream``, server-sent events: ``data: {...}\\n\\n`` strings."""


class Engine(Protocol):
    """One base model with adapters, loaded and unloaded while it answers.

    Every implementation guarantees, and tests/contract/test_engine.py checks:

    - a name stands for one path for the engine's whole life, so no cached prefix can belong to other weights;
    - never more than ``settings.max_loras`` adapters are resident, at any moment;
    - a base answer and an adapter's answer are the same alone and in a batch with others (at dtype float32, greedy);
    - ``model`` in a body, and in every chunk of a stream, is the name that was asked for, or the base's;
    - cancelling the task that awaits an answer, or closing a stream, stops the generation;
    - a generation that the engine broke off is an error, never a short answer;
    - a refused request or adapter leaves the engine as it was.
    """

    settings: EngineSettings

    @property
    def alive(self) -> bool:
        """Started, and not dead."""

    @property
    def max_model_len(self) -> int:
        """Tokens that a prompt and its answer may have together. Known once started."""

    async def start(self) -> None:
        """Load the base model; returns when the engine can answer. Call it where it may live: processes that it starts
        end with the thread that started them."""

    async def stop(self) -> None:
        """End the engine and every process it started. Safe to repeat."""

    async def add(self, name: str, path: Path) -> None:
        """Load the adapter in ``path`` under ``name``, such as ``support-bot@7``; a no-op for one that is loaded.

        Raises AdapterRefused, EngineFull, EngineUnavailable."""

    async def remove(self, name: str) -> None:
        """Unload it and free its place; a no-op for one that is not loaded. Drain its requests before."""

    async def held(self) -> frozenset[str]:
        """The adapters that the engine says it holds now: observed, not remembered. One that was removed and came back
        shows under its name, one that nobody added as ``unknown:<id>``."""

    async def probe(self, name: str, within: float) -> Probe:
        """Compare a loaded adapter with the base on fixed prompts, ``within`` seconds. Raises UnknownAdapter, TimeoutError."""

    async def chat(self, body: dict[str, Any], model: str | None, request_id: str) -> Answer:
        """Answer a ``/v1/chat/completions`` body; ``model`` is an adapter's name, None the base. Raises EngineError."""

    async def complete(self, body: dict[str, Any], model: str | None, request_id: str) -> Answer:
        """Answer a ``/v1/completions`` body; otherwise as ``chat``."""
