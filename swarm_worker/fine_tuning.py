"""Gradient steps on the good answers of items: a LoRA adapter trained on, or a fresh one.

It is the control that a search without gradients must be held against, and it makes experts: "mix, then a few gradient
steps" gives one more point for the hull. A step over an item costs about three item-generations: one forward pass, and a
backward pass of twice its work.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from swarm_worker.expert import read_expert
from swarm_worker.peft_folder import write_peft_folder
from swarm_worker.scoring.batches import batches, right_padded
from swarm_worker.scoring.chat import Chat, TokenisedPair
from swarm_worker.scoring.engine import Question
from swarm_worker.utilities.right_answer import right_answer
from swarm_worker.utilities.utility import Item, Utility

BATCH_TOKENS = 4_096  # of one pass; a larger batch is several passes whose gradients add up
WARM_UP = 0.1  # of the steps
LAST_RATE = 0.1  # of the peak
CLIPPED_NORM = 1.0
IGNORED = -100


def fine_tune(
    base: Path | str,
    start: Path | None,
    items: Sequence[Item],
    *,
    steps: int,
    rate: float,
    batch: int,
    seed: int,
    folder: Path,
    rank: int = 8,
    utility: Utility | None = None,
    base_model: str | None = None,
    on_step: Callable[[], None] | None = None,
) -> Path:
    """Train an adapter on the good answers of ``items`` and write it to ``folder``, which it returns.

    ``start``: a PEFT LoRA folder whose factors are trained on (rank, scaling and modules stay its own); None trains a
    fresh adapter of ``rank`` on all linear modules but the output layer. ``utility``: what asks the items, so that the prompts
    and answers trained on are those it scores (``right_answer``); None: an item's own question and good answer. ``base_model``:
    what the config names as its base; None: what ``start`` names, or ``base``. ``on_step`` is called before each step; what it
    raises ends the training.

    AdamW without weight decay; the rate warms up over a tenth of the steps to ``rate`` and falls to a tenth of it on a half
    cosine; gradients are clipped at norm 1; nothing is dropped out. Items come in an order drawn from ``seed``, all of them
    before any comes again; the loss is the mean over the batch's answer tokens, the one that ends a closed answer included. On
    one thread, so that the same call writes the same bytes, float32; the folder appears complete or not at all.

    Raises ``ValueError`` for an item without a good answer, with choices but no ``utility``, or too long for the model; for a
    utility that rates answers and knows no right one; for numbers out of range and for a training that diverges;
    ``UnusableExpert`` for a start that is not a plain LoRA; ``FileExistsError`` for a folder that is there.
    """
    _require(steps=steps, rate=rate, batch=batch, rank=rank)
    if not items:
        raise ValueError("items must be one or more, not none")
    if folder.exists():
        raise FileExistsError(f"{folder} exists already")
    questions = [_question(utility, item) for item in items]
    named = base_model or (str(base) if start is None else read_expert(start).base_model)
    with _repeatable(seed):
        model, chat = _load(base, start, rank)
        pairs = [chat.tokenise(*question) for question in questions]
        _require_context(model, items, pairs)
        _train(model, pairs, _orders(len(pairs), batch, seed), steps, rate, on_step)
        return _write(model, named, folder)


def _question(utility: Utility | None, item: Item) -> Question:
    """What is trained on: a prompt and the answer to it."""
    if utility is not None:
        return right_answer(utility, item)
    if item.choices is not None:
        raise ValueError(f"item {item.digest[:12]} has choices: utility must say how they are asked")
    return Question(item.question, item.right)


def _train(
    model: PeftModel,
    pairs: list[TokenisedPair],
    orders: Iterator[list[int]],
    steps: int,
    rate: float,
    on_step: Callable[[], None] | None,
) -> None:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    for step in range(steps):
        if on_step is not None:
            on_step()
        for group in optimiser.param_groups:
            group["lr"] = rate * _share_of_rate(step, steps)
        rows = [pairs[row] for row in next(orders)]
        tokens = sum(len(pair.answer) for pair in rows)
        for part in batches([len(pair) for pair in rows], BATCH_TOKENS):
            (_loss(model, [rows[row] for row in part]) / tokens).backward()
        norm = nn.utils.clip_grad_norm_(parameters, CLIPPED_NORM)
        if not torch.isfinite(norm):
            raise ValueError(f"the training diverged at step {step + 1} of {steps}: rate must be lower than {rate!r}")
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)


def _loss(model: PeftModel, pairs: list[TokenisedPair]) -> torch.Tensor:
    """The negative log-likelihood (nats) of the answers' tokens, summed."""
    input_ids, attention_mask = right_padded([pair.prompt + pair.answer for pair in pairs])
    first, last = min(len(pair.prompt) for pair in pairs), input_ids.shape[1]
    targets = torch.full((len(pairs), last - first), IGNORED)
    for row, pair in enumerate(pairs):
        begin = len(pair.prompt) - first
        targets[row, begin : begin + len(pair.answer)] = torch.tensor(pair.answer)
    # The logits at position t speak of token t + 1; those before the first answer are not computed.
    kept = torch.arange(first - 1, last - 1)
    logits = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, logits_to_keep=kept).logits
    return nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="sum")


def _orders(items: int, batch: int, seed: int) -> Iterator[list[int]]:
    """Batches of item numbers without end; an item comes again only when all have come."""
    random = torch.Generator().manual_seed(seed)
    waiting: list[int] = []
    while True:
        while len(waiting) < batch:
            waiting += torch.randperm(items, generator=random).tolist()
        yield waiting[:batch]
        waiting = waiting[batch:]


def _share_of_rate(step: int, steps: int) -> float:
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    done = (step + 1 - warm) / max(1, steps - warm)
    return LAST_RATE + (1 - LAST_RATE) * (1 + math.cos(math.pi * done)) / 2


def _load(base: Path | str, start: Path | None, rank: int) -> tuple[PeftModel, Chat]:
    """The base with a trainable adapter, in eval mode: no dropout anywhere, whatever a config says."""
    disable_progress_bar()
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, use_safetensors=True)
    chat = Chat(AutoTokenizer.from_pretrained(base), model.generation_config)
    if start is None:
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules="all-linear", task_type="CAUSAL_LM")
        return get_peft_model(model, config).eval(), chat
    return PeftModel.from_pretrained(model, str(start), is_trainable=True).eval(), chat


def _write(model: PeftModel, base_model: str | None, folder: Path) -> Path:
    layers = {name: layer for name, layer in model.base_model.model.named_modules() if isinstance(layer, LoraLayer)}
    (adapter,) = model.peft_config
    factors = [
        (name, layer.lora_B[adapter].weight.detach() * layer.scaling[adapter], layer.lora_A[adapter].weight.detach())
        for name, layer in sorted(layers.items())
        if adapter in layer.lora_A
    ]
    rank = max(a.shape[0] for _, _, a in factors)
    write_peft_folder(folder, factors, rank=rank, base_model=base_model, dtype="float32")
    return folder


@contextmanager
def _repeatable(seed: int) -> Iterator[None]:
    """One thread and a seeded generator inside, the caller's own outside."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def _require_context(model: PeftModel, items: Sequence[Item], pairs: Sequence[TokenisedPair]) -> None:
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2**31
    for item, pair in zip(items, pairs, strict=True):
        if len(pair) > context:
            raise ValueError(f"item {item.digest[:12]} has {len(pair)} tokens, the model's context is {context}")


def _require(*, steps: int, rate: float, batch: int, rank: int) -> None:
    for name, value in {"steps": steps, "batch": batch, "rank": rank}.items():
        if value < 1:
            raise ValueError(f"{name} must be 1 or more, not {value!r}")
    if not (math.isfinite(rate) and rate > 0):
        raise ValueError(f"rate must be a number above 0, not {rate!r}")
