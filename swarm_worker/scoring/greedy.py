"""Greedy answers of many rows side by side; rows that have ended make room."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from swarm_worker.scoring.batches import batches, left_padded
from swarm_worker.scoring.chat import Chat
from swarm_worker.scoring.forward import Forward, Limits

# A batch is made smaller once this share of it has ended: sooner, and copying its cache costs more than it saves.
ENDED = 0.25


def greedy_answers(
    forward: Forward, prompts: Sequence[tuple[int, ...]], owners: int, max_tokens: int, chat: Chat, limits: Limits
) -> list[list[str]]:
    """What each of the owners answers to each prompt; prompts of like length share a batch."""
    answers = [[""] * len(prompts) for _ in range(owners)]
    places = [(owner, number) for number in range(len(prompts)) for owner in range(owners)]
    lengths = [len(prompts[number]) for _, number in places]
    tokens = limits.rows * max(lengths, default=0)  # rows are the bound
    for batch in batches(lengths, tokens, max_rows=limits.rows):
        chosen = [places[i] for i in batch]
        asked_by = [owner for owner, _ in chosen]
        found = greedy(forward, [prompts[number] for _, number in chosen], asked_by, max_tokens, chat.stops)
        for (owner, number), answer in zip(chosen, found, strict=True):
            answers[owner][number] = chat.text_of(answer)
    return answers


@torch.inference_mode()
def greedy(
    forward: Forward,
    prompts: Sequence[tuple[int, ...]],
    owners: Sequence[int],
    max_tokens: int,
    stops: Sequence[int],
) -> list[list[int]]:
    """The likeliest token, again and again, up to and with the first of ``stops``: at most ``max_tokens`` a row."""
    answers: list[list[int]] = [[] for _ in prompts]
    input_ids, mask = (t.to(forward.device) for t in left_padded(prompts, stops[0]))
    stop = torch.tensor(stops, device=forward.device)
    going = list(range(len(prompts)))  # the rows that are still in the batch
    ended = torch.zeros(len(going), dtype=torch.bool, device=forward.device)
    cache, where = None, (mask.cumsum(dim=1) - 1).clamp(min=0)
    for step in range(max_tokens):
        output = forward(
            [owners[row] for row in going],
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=where,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache, tokens = output.past_key_values, output.logits[:, -1].argmax(dim=-1)
        for row, token, over in zip(going, tokens.tolist(), ended.tolist(), strict=True):
            if not over:
                answers[row].append(token)
        ended |= torch.isin(tokens, stop)
        over = int(ended.sum())
        if over == len(going) or step == max_tokens - 1:
            break
        if over >= ENDED * len(going):
            left = (~ended).nonzero().flatten()
            cache.reorder_cache(left)
            going = [going[i] for i in left.tolist()]
            tokens, mask, where, ended = tokens[left], mask[left], where[left], ended[left]
        mask = torch.cat([mask, mask.new_ones(len(going), 1)], dim=1)
        input_ids, where = tokens[:, None], where[:, -1:] + 1
    return answers
