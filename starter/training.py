"""How the starter pack's models are trained and measured: items to tensors, steps, exact-match accuracy."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from starter.skills import SKILLS, Item

IGNORED = -100  # the label of a token that no loss looks at


@dataclass(frozen=True)
class Schedule:
    """One training: how many steps, of how many items, at which peak learning rate, from which seed.

    ``stop`` ends the training early, while the learning rate goes on as if all ``steps`` were to come.
    """

    steps: int
    rate: float
    batch: int
    seed: int
    stop: int | None = None

    def rate_at(self, step: int) -> float:
        """Linear warm-up over the first twentieth, then a half cosine down to a tenth of the peak."""
        warm = max(1, self.steps // 20)
        if step < warm:
            return self.rate * (step + 1) / warm
        return self.rate * (0.1 + 0.45 * (1 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm))))


def encode(tokenizer: PreTrainedTokenizerFast, batch: Sequence[Item]) -> tuple[torch.Tensor, torch.Tensor]:
    """Input ids and labels, both ``(items, tokens)``, padded on the right; only the answer and its end have labels."""
    texts = [f"{item.prompt}\n{item.answer}{tokenizer.eos_token}" for item in batch]
    rows = tokenizer(texts, padding=True, return_tensors="pt")
    ids, labels = rows["input_ids"], rows["input_ids"].clone()
    for row, item in enumerate(batch):
        labels[row, : len(item.prompt) + 1] = IGNORED
    labels[ids == tokenizer.pad_token_id] = IGNORED
    return ids, labels


def stream(weights: dict[str, float], batch: int, seed: int) -> Iterator[list[Item]]:
    """Endless batches of training-split items, skills drawn by weight."""
    rng = random.Random(f"stream/{sorted(weights.items())}/{seed}")
    names, shares = list(weights), list(weights.values())
    while True:
        drawn: list[Item] = []
        while len(drawn) < batch:
            name = rng.choices(names, shares)[0]
            item = Item(name, *SKILLS[name](rng))
            if item.split == "train":
                drawn.append(item)
        yield drawn


@dataclass(frozen=True)
class Anchor:
    """What keeps an expert from changing more than its own skill: on items of the other skills it must answer as
    ``reference`` does (KL divergence of the next-token distributions, over the answer's tokens).
    """

    reference: torch.nn.Module
    weights: dict[str, float]
    share: float  # of a batch
    strength: float  # the KL's weight beside the loss

    def loss(self, logits: torch.Tensor, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Mean KL(reference || model) a token; ``logits`` are the model's, ``(items, tokens, vocabulary)``."""
        with torch.no_grad():
            wanted = self.reference(input_ids=ids).logits
        counted = labels[:, 1:] != IGNORED
        ours, theirs = (rows[:, :-1][counted].float().log_softmax(-1) for rows in (logits, wanted))
        return functional.kl_div(ours, theirs, log_target=True, reduction="batchmean")


def train(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    weights: dict[str, float],
    schedule: Schedule,
    anchor: Anchor | None = None,
) -> dict:
    """Train the parameters that ask for gradients, in place; returns the training's record (losses, seconds)."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=schedule.rate, betas=(0.9, 0.98), weight_decay=0.01)
    anchored = round(schedule.batch * anchor.share) if anchor else 0
    own = stream(weights, schedule.batch - anchored, schedule.seed)
    others = stream(anchor.weights, anchored, schedule.seed) if anchor else None
    losses: list[float] = []
    started = time.perf_counter()
    model.train()
    for step in range(schedule.stop or schedule.steps):
        for group in optimiser.param_groups:
            group["lr"] = schedule.rate_at(step)
        ids, labels = encode(tokenizer, next(own) + (next(others) if others else []))
        first = len(ids) - anchored
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(input_ids=ids).logits
            drift = anchor.loss(logits[first:], ids[first:], labels[first:]) * anchor.strength if anchor else 0.0
        loss = functional.cross_entropy(logits[:first, :-1].flatten(0, 1).float(), labels[:first, 1:].flatten())
        (loss + drift).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        losses.append(loss.item())
    model.eval()
    tenth = max(1, len(losses) // 10)
    curve = [round(sum(losses[i : i + tenth]) / len(losses[i : i + tenth]), 4) for i in range(0, len(losses), tenth)]
    return {**asdict(schedule), "weights": weights, "loss": curve, "seconds": round(time.perf_counter() - started, 1)}


@torch.inference_mode()
def token_scores(model: torch.nn.Module, ids: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For each item, the mean log-likelihood of a token of its answer, and whether greedy decoding gives the answer.

    Greedy decoding gives exactly the answer when, reading the right answer, the likeliest token is the right one
    everywhere: so one forward pass measures what generation would.
    """
    logits = model(input_ids=ids).logits[:, :-1].float()
    targets = labels[:, 1:]
    counted = targets != IGNORED
    safe = targets.clamp(min=0)
    logp = logits.log_softmax(-1).gather(-1, safe[..., None])[..., 0]
    likelihood = (logp * counted).sum(1) / counted.sum(1)
    right = ((logits.argmax(-1) == safe) | ~counted).all(1)
    return likelihood, right


def accuracy(model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, questions: Sequence[Item]) -> float:
    """The share of items that greedy decoding answers exactly."""
    right = 0.0
    for start in range(0, len(questions), 250):
        _, hits = token_scores(model, *encode(tokenizer, questions[start : start + 250]))
        right += hits.sum().item()
    return right / len(questions)
