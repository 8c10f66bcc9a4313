"""Token swarms (Model Swarms, arXiv:2410.11163): positions mix the next-token distributions of several models.

A position has a coefficient for each model, and its next token is drawn from p = sum_i c_i p_i: the models may have
different weights, sizes and architectures, if they share a tokenizer. A search starts from one-hot positions, the models
themselves, as it starts from experts elsewhere, and moves by the same rules.

Those rules lead outside the simplex: a coefficient may be negative, and then so may p. What is below 0 counts as 0 and the
rest is divided by its sum: c = (1.2, -0.2) is the first model without what the second says much more readily. Where no
token is left above 0, which can only be where the coefficients do not sum to more than 0, all are equally likely. An
answer's token that was left nothing has the smallest normal float32 as its probability, -87.3 nats: minus infinity would
end every mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self, cast

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from swarm_worker.hull import ExpertStack, HullOptions
from swarm_worker.scoring.chat import Chat
from swarm_worker.scoring.engine import AdapterFolder, Asked, Base, Candidate, Prompt, Scored, Told
from swarm_worker.scoring.float32 import speed_up_linears
from swarm_worker.scoring.forward import ON_CPU, ON_GPU, Limits, logits_of, rectangles
from swarm_worker.scoring.greedy import greedy_answers
from swarm_worker.scoring.heap import keep_heap
from swarm_worker.scoring.merging import MergedModel, adapter_file
from swarm_worker.scoring.packs import packs

NO_OPTIONS = HullOptions()
SAMPLE = "Reverse: 'naïve' 42 + 7\n\tdef f(x): return x"
"""Two tokenizers that differ in what they do before the vocabulary split this differently."""


class TokenMixEngine:
    """A ``ScoringEngine`` whose hull is spanned by models: ``set_experts`` takes folders of whole models, and of adapters to
    the base. The base gives tokenizer, chat template and the tokens that end an answer, and is what ``BASE`` means."""

    def __init__(self, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path | str) -> None:
        dtype = str(base.dtype).removeprefix("torch.")
        self.identity = f"token-mix-{base.device.type}-{dtype}"
        self._folder = folder
        self._tokenizer = tokenizer
        self._chat = Chat(tokenizer, base.generation_config)
        self._base = _resident(base)
        self._models: list[MergedModel] = []
        self._hull: tuple[tuple[Path, ...], HullOptions] | None = None
        self._adapter: tuple[object, MergedModel] | None = None

    @classmethod
    def load(
        cls, base: Path | str, models: Sequence[Path] = (), *, device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Self:
        """The base model in a local folder (or by its Hugging Face id), and the models that are mixed; all of them stay in
        memory. Where the base is to be one of them, name it again, or use ``HullOptions(include_base=True)``."""
        disable_progress_bar()
        model = _load(base, device, dtype)
        engine = cls(model, AutoTokenizer.from_pretrained(base), base)
        if models:
            engine.set_experts(models)
        return engine

    @property
    def context(self) -> int:
        return min(model.context for model in (self._base, *self._models))

    def set_experts(self, folders: Sequence[Path], options: HullOptions = NO_OPTIONS) -> None:
        """The models that a ``Candidate``'s coefficients speak of. Raises ``ValueError`` for a tokenizer that is not the
        base's, and for options that only adapters can have."""
        if (tuple(folders), options) == self._hull:
            return
        if options != HullOptions(include_base=options.include_base):
            raise ValueError("sparse_copies and layer_groups are of adapters' factors: a mix of tokens has none")
        models = [self._load(Path(folder)) for folder in folders]
        self._models = [*models, self._base] if options.include_base else models
        self._hull = (tuple(folders), options)

    def length(self, prompt: Prompt, answer: str) -> int:
        return len(self._chat.tokenise(prompt, answer))

    @torch.inference_mode()
    def ask(self, scored: Sequence[Scored], asked: Asked) -> list[Told]:
        question = self._chat.tokenise_all(asked, self.context)
        if not scored:
            return []
        mixture = self._mixture(scored)
        totals = np.zeros((len(scored), len(question.pairs)))
        packed = packs(question.pairs, share=all(model.may_share(question.pairs) for model in mixture.models))
        for rectangle in rectangles(packed, 1, mixture.limits, mixture.vocabulary):
            # Every model reads a question once, whatever the number of positions.
            told = mixture.distributions([logits_of(model, rectangle) for model in mixture.models])
            for number, coefficients in enumerate(mixture.coefficients):
                rectangle.add(_log_mix(coefficients, told), totals[number : number + 1])
        answers = greedy_answers(
            mixture, question.prompts, len(scored), question.max_tokens, self._chat, mixture.limits
        )
        return list(map(question.told, totals, answers))

    def _mixture(self, scored: Sequence[Scored]) -> Mixture:
        """Whoever is asked, as coefficients of all models that any of them needs."""
        models = [*self._models, self._base]
        rows: list[dict[int, float]] = []
        for one in scored:
            if isinstance(one, Candidate):
                if not self._models:
                    raise ValueError("a candidate needs models to mix: call set_experts first")
                if len(one.coefficients) != len(self._models):
                    raise ValueError(f"{len(one.coefficients)} coefficients for {len(self._models)} models")
                rows.append({number: c for number, c in enumerate(one.coefficients) if c})
            elif isinstance(one, Base):
                rows.append({len(self._models): 1.0})
            else:
                rows.append({len(models): 1.0})
                models.append(self._adapted(one))
        needed = sorted({number for row in rows for number in row}) or [len(self._models)]
        matrix = [[row.get(number, 0.0) for number in needed] for row in rows]
        coefficients = torch.tensor(matrix, dtype=torch.float32, device=self._base.device)
        return Mixture([models[number] for number in needed], coefficients)

    def _load(self, folder: Path) -> MergedModel:
        if (folder / "adapter_config.json").exists():
            return self._adapted(AdapterFolder(folder))
        self._require_same_tokenizer(folder)
        model = _load(folder, self._base.device, self._base.dtype)
        if int(model.config.get_text_config().vocab_size) != self._base.vocabulary:
            raise ValueError(f"{folder} has a vocabulary of another size than the base, {self._base.vocabulary} tokens")
        return _resident(model)

    def _adapted(self, adapter: AdapterFolder) -> MergedModel:
        """A copy of the base with an adapter merged in."""
        wanted = adapter_file(adapter.folder)
        if self._adapter is None or self._adapter[0] != wanted:
            merged = _resident(_load(self._folder, self._base.device, self._base.dtype))
            merged.merge(ExpertStack.load([adapter.folder]).to(merged.device), (1.0,), "delta")
            self._adapter = (wanted, merged)
        return self._adapter[1]

    def _require_same_tokenizer(self, folder: Path) -> None:
        other = AutoTokenizer.from_pretrained(folder)
        same_vocabulary = other.get_vocab() == self._tokenizer.get_vocab()
        if not same_vocabulary or other(SAMPLE).input_ids != self._tokenizer(SAMPLE).input_ids:
            raise ValueError(
                f"{folder} has another tokenizer than the base {self._folder}: next-token distributions can only be "
                "mixed where a token means the same to all"
            )


@dataclass(frozen=True, slots=True)
class Mixture:
    """A ``Forward`` of several positions, ``coefficients`` (N, n), over n models that all read every row."""

    models: Sequence[MergedModel]
    coefficients: torch.Tensor

    @property
    def device(self) -> torch.device:
        return self.models[0].device

    @property
    def dtype(self) -> torch.dtype:
        return self.models[0].dtype

    @property
    def vocabulary(self) -> int:
        return self.models[0].vocabulary

    @property
    def limits(self) -> Limits:
        return ON_CPU if self.device.type == "cpu" else ON_GPU

    @staticmethod
    def distributions(logits: Sequence[torch.Tensor]) -> torch.Tensor:
        """(n, rows, places, vocabulary) probabilities."""
        return torch.stack([one.float() for one in logits]).softmax(dim=-1)

    def __call__(self, owners: Sequence[int], past_key_values: Any = None, **inputs: Any) -> Any:
        caches = past_key_values or [None] * len(self.models)
        outputs = [
            model(owners, past_key_values=cache, **inputs) for model, cache in zip(self.models, caches, strict=True)
        ]
        own = self.coefficients[list(owners)].T[:, :, None, None]  # (n, rows, 1, 1)
        told = self.distributions([output.logits for output in outputs])
        return SimpleNamespace(
            logits=_log_mix(own, told), past_key_values=_Caches(output.past_key_values for output in outputs)
        )


class _Caches(list[Any]):
    """A cache a model."""

    def reorder_cache(self, rows: torch.Tensor) -> None:
        for cache in self:
            cache.reorder_cache(rows)


def _log_mix(coefficients: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
    """log p of p = sum_i c_i p_i, clipped at 0 and divided by its sum. ``told`` (n, ...), ``coefficients`` (n,) or (n, ...)."""
    c = coefficients.view(-1, *[1] * (told.ndim - 1)) if coefficients.ndim == 1 else coefficients
    mixed = (c * told).sum(dim=0).clamp(min=0)
    left = mixed.sum(dim=-1, keepdim=True)
    p = torch.where(left > 0, mixed / left, 1 / mixed.shape[-1])
    return p.clamp(min=torch.finfo(torch.float32).tiny).log()


def _load(folder: Path | str, device: str | torch.device, dtype: torch.dtype) -> PreTrainedModel:
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True)
    return cast(PreTrainedModel, model.to(device))


def _resident(model: PreTrainedModel) -> MergedModel:
    model.eval().requires_grad_(False)
    if model.device.type == "cpu":
        keep_heap()
        speed_up_linears(model)
    return MergedModel(model)
