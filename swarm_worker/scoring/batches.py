"""Rows of different lengths, as rectangles."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def batches(lengths: Sequence[int], max_tokens: int, max_rows: int | None = None) -> list[list[int]]:
    """Row numbers in batches of like length, each at most ``max_tokens`` large with its padding (or a single row)."""
    result: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: (lengths[row], row)):
        batch = result[-1] if result else None
        if (
            batch is None
            or (len(batch) + 1) * lengths[row] > max_tokens
            or (max_rows is not None and len(batch) == max_rows)
        ):
            result.append([row])
        else:
            batch.append(row)
    return result


def right_padded(rows: Sequence[tuple[int, ...]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both (rows, longest); the padding comes after, and is token 0."""
    ids = torch.zeros(len(rows), max(len(row) for row in rows), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    return ids, mask


def left_padded(rows: Sequence[tuple[int, ...]], padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both (rows, longest); the padding comes first, so that all rows end together."""
    ids = torch.full((len(rows), max(len(row) for row in rows)), padding)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, ids.shape[1] - len(row) :] = torch.tensor(row)
        mask[i, ids.shape[1] - len(row) :] = 1
    return ids, mask
