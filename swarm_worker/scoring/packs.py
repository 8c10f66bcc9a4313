"""Questions about likelihoods as rectangles of tokens in which whatever several of them share is read once.

A pack is a tree: each node a token, each question (prompt and answer) a path from the root. Options of one item share
their prompt, items share an instruction. A node sees its ancestors and itself and has its depth as its position, so every
question is read as if it stood alone. (All options of an item in one row: the tree attention of speculative decoding, as
in SpecInfer, arXiv:2305.09781, section 4.2.) A pack with one question is an ordinary row.

What is packed with what depends on the questions alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from swarm_worker.scoring.chat import TokenisedPair

# Nodes of a pack, where no question is longer: attention within a pack grows with its square, and what two packs share is
# read twice. On a 2M-parameter model 64 to 96 are equally fast, 48 and 128 take up to a quarter longer.
PACK = 80


@dataclass(frozen=True, slots=True)
class Pack:
    """One row of a forward pass: T nodes, the K last of them speak of answers.

    ``tokens``, ``depths`` (T,); ``sees`` (T, T), row i: what node i attends to. ``nodes``, ``targets``, ``rows``: node
    ``nodes[j]`` (counted among the K) is asked about token ``targets[j]`` on behalf of question ``rows[j]``.
    """

    tokens: np.ndarray
    depths: np.ndarray
    sees: np.ndarray
    speaking: int
    nodes: np.ndarray
    targets: np.ndarray
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def is_row(self) -> bool:
        """Whether it is one path, in order."""
        return int(self.depths[-1]) == len(self) - 1


def packs(pairs: Sequence[TokenisedPair], *, share: bool) -> list[Pack]:
    """All questions, smallest pack first. Without ``share`` each has a pack of its own."""
    ordered = sorted(range(len(pairs)), key=lambda row: (pairs[row].prompt + pairs[row].answer, row))
    groups: list[list[int]] = []
    size = 0
    before: tuple[int, ...] = ()
    for row in ordered:
        path = (pairs[row].prompt + pairs[row].answer)[:-1]  # the last token is only asked about
        fresh = len(path) - _common(before, path)
        # A longer question may fill its pack once more: its neighbours are likely to share most of it.
        if groups and share and size + fresh <= max(PACK, 2 * len(path)):
            groups[-1].append(row)
            size += fresh
        else:
            groups.append([row])
            size = len(path)
        before = path
    return sorted((_pack([(row, pairs[row]) for row in group]) for group in groups), key=len)


def _pack(questions: Sequence[tuple[int, TokenisedPair]]) -> Pack:
    children: dict[tuple[int, int], int] = {}  # (node, token) -> the node that follows
    tokens: list[int] = []
    paths: list[list[int]] = []
    speaking: dict[int, None] = {}
    for _, pair in questions:
        at, path = -1, []
        for token in (pair.prompt + pair.answer)[:-1]:
            node = children.setdefault((at, token), len(tokens))
            if node == len(tokens):
                tokens.append(token)
            path.append(node)
            at = node
        paths.append(path)
        speaking.update(dict.fromkeys(path[len(pair.prompt) - 1 :]))
    order = np.array([node for node in range(len(tokens)) if node not in speaking] + list(speaking))
    placed = np.argsort(order)  # where each node went
    depths = np.zeros(len(tokens), dtype=np.int64)
    sees = np.eye(len(tokens), dtype=bool)
    for path in paths:
        own = placed[path]
        depths[own] = np.arange(len(path))
        sees[np.ix_(own, own)] |= np.tri(len(path)) > 0
    first = len(tokens) - len(speaking)
    answers = [pair.answer for _, pair in questions]
    return Pack(
        tokens=np.array(tokens)[order],
        depths=depths,
        sees=sees,
        speaking=len(speaking),
        nodes=np.concatenate(
            [placed[path[len(pair.prompt) - 1 :]] - first for (_, pair), path in zip(questions, paths, strict=True)]
        ),
        targets=np.concatenate([np.array(answer) for answer in answers]),
        rows=np.repeat([row for row, _ in questions], [len(answer) for answer in answers]),
    )


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


@dataclass(frozen=True, slots=True)
class Rectangle:
    """Some packs side by side, (P, T), padding first: the K last places of a row speak. Each is put to one model, its
    owner."""

    packs: Sequence[Pack]
    owners: Sequence[int]

    @property
    def speaking(self) -> int:
        return max(pack.speaking for pack in self.packs)

    def inputs(self, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """What ``CausalLM.forward`` takes: an ordinary mask where no pack is more than a row, else one of (P, 1, T, T)."""
        longest = max(len(pack) for pack in self.packs)
        ids = np.zeros((len(self.packs), longest), dtype=np.int64)
        positions = np.zeros_like(ids)
        for i, pack in enumerate(self.packs):
            ids[i, longest - len(pack) :] = pack.tokens
            positions[i, longest - len(pack) :] = pack.depths
        return {
            "input_ids": torch.from_numpy(ids),
            "position_ids": torch.from_numpy(positions),
            "attention_mask": self._mask(longest, dtype),
        }

    def add(self, log_p: torch.Tensor, totals: np.ndarray) -> None:
        """Add to ``totals`` (owners, questions) what the answers' tokens got in ``log_p`` (P, K, vocabulary)."""
        sizes = [len(pack.nodes) for pack in self.packs]
        offsets = [log_p.shape[1] - pack.speaking for pack in self.packs]
        where = (
            np.repeat(np.arange(len(self.packs)), sizes),
            np.concatenate([pack.nodes + offset for pack, offset in zip(self.packs, offsets, strict=True)]),
            np.concatenate([pack.targets for pack in self.packs]),
        )
        found = log_p[tuple(torch.from_numpy(index).to(log_p.device) for index in where)]
        questions = np.concatenate([pack.rows for pack in self.packs])
        np.add.at(totals, (np.repeat(self.owners, sizes), questions), found.double().cpu().numpy())

    def _mask(self, longest: int, dtype: torch.dtype) -> torch.Tensor:
        if all(pack.is_row for pack in self.packs):
            real = [np.arange(longest) >= longest - len(pack) for pack in self.packs]
            return torch.from_numpy(np.stack(real).astype(np.int64))
        sees = np.broadcast_to(np.eye(longest, dtype=bool), (len(self.packs), longest, longest)).copy()
        for i, pack in enumerate(self.packs):
            sees[i, longest - len(pack) :, longest - len(pack) :] = pack.sees
        hidden = torch.full((), torch.finfo(dtype).min, dtype=dtype)
        return torch.where(torch.from_numpy(sees), torch.zeros((), dtype=dtype), hidden)[:, None]
