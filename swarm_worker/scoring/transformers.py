"""The scoring engine on ``transformers``: one resident base model, and positions in one of two ways.

``merged``: one position after the other, merged into the base's weights: no multiplication more than the base costs.
``stacked``: all positions of a question at once, their rows side by side in large batches with the experts' stacked factors
beside the base's weights: more work, in fewer and larger steps. On CPU merged is the faster one (bench/scoring.py), so it is
the default there; on a GPU, which small steps leave idle, stacked is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Literal, Self, get_args

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from swarm_worker.hull import ExpertStack, HullOptions, Space
from swarm_worker.scoring.chat import Chat, TokenisedPair
from swarm_worker.scoring.engine import AdapterFolder, Asked, Base, Candidate, Prompt, Scored, Told
from swarm_worker.scoring.float32 import speed_up_linears
from swarm_worker.scoring.forward import ON_CPU, ON_GPU, Forward, Watched, likelihoods
from swarm_worker.scoring.greedy import greedy_answers
from swarm_worker.scoring.heap import keep_heap
from swarm_worker.scoring.merging import MergedModel, adapter_file
from swarm_worker.scoring.packs import packs
from swarm_worker.scoring.stacked import StackedModel

Mode = Literal["merged", "stacked"]
NO_OPTIONS = HullOptions()


class TransformersEngine:
    """A ``ScoringEngine`` on ``transformers``. Not safe for use by two threads at a time."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, mode: Mode | None = None) -> None:
        """``mode`` None: merged on CPU, else stacked."""
        if mode is not None and mode not in get_args(Mode):
            raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}, not {mode!r}")
        on_cpu = model.device.type == "cpu"
        self.mode: Mode = mode or ("merged" if on_cpu else "stacked")
        dtype = str(model.dtype).removeprefix("torch.")
        self.identity = f"transformers-{self.mode}-{model.device.type}-{dtype}"
        self.limits = ON_CPU if on_cpu else ON_GPU
        self.on_pass: Callable[[], None] = lambda: None
        self._model = model.eval().requires_grad_(False)
        if on_cpu:
            keep_heap()
            speed_up_linears(model)
        self._chat = Chat(tokenizer, model.generation_config)
        self._merged = MergedModel(self._model)
        self._merged_now: object = None
        self._experts: ExpertStack | None = None
        self._stacked: StackedModel | None = None
        self._hull: tuple[tuple[Path, ...], HullOptions] | None = None
        self._adapter: tuple[object, ExpertStack] | None = None

    @classmethod
    def load(
        cls,
        base: Path | str,
        experts: Sequence[Path] = (),
        *,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
        mode: Mode | None = None,
    ) -> Self:
        """The base model in a local folder (or by its Hugging Face id), and the experts of the search.

        ``dtype`` None: float32 on CPU, else bfloat16. ``mode`` None: merged on CPU, else stacked.
        """
        disable_progress_bar()  # a worker's log is read line by line
        dtype = dtype or (torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, use_safetensors=True).to(device)
        engine = cls(model, AutoTokenizer.from_pretrained(base), mode=mode)
        if experts:
            engine.set_experts(experts)
        return engine

    @property
    def context(self) -> int:
        return self._merged.context

    def set_experts(self, folders: Sequence[Path], options: HullOptions = NO_OPTIONS) -> None:
        """Raises ``UnusableExpert``, or ``ValueError`` where an expert adapts a module that the base does not have."""
        if (tuple(folders), options) == self._hull:
            return
        self._restore()  # coefficients of the last stack mean nothing in the next
        self._hull = self._experts = self._stacked = None
        self._experts = ExpertStack.load(list(folders), options).to(self._model.device)
        self._stacked = StackedModel(self._model, self._experts) if self.mode == "stacked" else None
        self._hull = (tuple(folders), options)

    def tokenise(self, prompt: Prompt, answer: str, closed: bool = True) -> TokenisedPair:
        return self._chat.tokenise(prompt, answer, closed)

    def length(self, prompt: Prompt, answer: str) -> int:
        return len(self.tokenise(prompt, answer))

    def ask(self, scored: Sequence[Scored], asked: Asked) -> list[Told]:
        question = self._chat.tokenise_all(asked, self.context)
        packed = packs(question.pairs, share=self._merged.may_share(question.pairs))
        told: dict[int, Told] = {}
        for numbers, model in self._models(scored):
            with model as answering:
                forward = Watched(answering, self.on_pass)
                totals = likelihoods(forward, packed, len(numbers), len(question.pairs), self.limits)
                answers = greedy_answers(
                    forward, question.prompts, len(numbers), question.max_tokens, self._chat, self.limits
                )
            told.update(zip(numbers, map(question.told, totals, answers), strict=True))
        return [told[number] for number in range(len(scored))]

    def _models(self, scored: Sequence[Scored]) -> Iterator[tuple[list[int], AbstractContextManager[Forward]]]:
        """Who answers together: their numbers among ``scored``, and one model for them all."""
        alone = list(range(len(scored)))
        if self._stacked is not None:
            for space, numbers in _by_space(scored).items():
                self._restore()
                yield numbers, self._stacked.at([self._position(scored[number]) for number in numbers], space)
                alone = [number for number in alone if number not in numbers]
        for number in alone:
            self._merge(scored[number])
            yield [number], nullcontext(self._merged)

    def _position(self, scored: Scored) -> tuple[float, ...]:
        """The base is where nothing is added."""
        dimensions = self._hull_stack().dimensions
        position = scored.coefficients if isinstance(scored, Candidate) else (0.0,) * dimensions
        if len(position) != dimensions:
            raise ValueError(f"{len(position)} coefficients for {dimensions} dimensions of the experts' hull")
        return position

    def _hull_stack(self) -> ExpertStack:
        if self._experts is None:
            raise ValueError("a candidate needs experts: call set_experts first")
        return self._experts

    def _merge(self, scored: Scored) -> None:
        """Make the model's weights those of ``scored``."""
        if isinstance(scored, Base):
            self._restore()
            return
        # Another adapter written to the same folder is another adapter.
        wanted = adapter_file(scored.folder) if isinstance(scored, AdapterFolder) else scored
        if wanted == self._merged_now:
            return
        self._merged_now = None  # a merge that fails half-way is nobody's
        if isinstance(scored, Candidate):
            self._merged.merge(self._hull_stack(), scored.coefficients, scored.space)
        else:
            if self._adapter is None or self._adapter[0] != wanted:
                self._adapter = (wanted, ExpertStack.load([scored.folder]).to(self._model.device))
            self._merged.merge(self._adapter[1], (1.0,), "delta")
        self._merged_now = wanted

    def _restore(self) -> None:
        self._merged_now = None
        self._merged.restore()


def _by_space(scored: Sequence[Scored]) -> dict[Space, list[int]]:
    """The numbers of those that can share a pass: candidates of one space, and the base with them."""
    together: dict[Space, list[int]] = {}
    for number, one in enumerate(scored):
        if isinstance(one, Candidate):
            together.setdefault(one.space, []).append(number)
    if together:
        next(iter(together.values())).extend(number for number, one in enumerate(scored) if isinstance(one, Base))
    return together
