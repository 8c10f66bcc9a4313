"""Where a scoring worker keeps its base: the CPU, or a GPU that has room for it beside what answers users."""

from __future__ import annotations

import torch

from registry.errors import BadInput

ROOM = 0.5
"""The part of a GPU's memory that must be free for a worker to take it by itself: the engine that answers users takes nine
tenths of its own."""


def device_of(wanted: str) -> str:
    """The torch device that ``SHOAL_SCORING_DEVICE`` means on this machine, now. ``BadInput`` for a GPU that is not there."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "auto":
        return next((f"cuda:{number}" for number in range(gpus) if _has_room(number)), "cpu")
    if wanted != "cpu" and int(wanted.partition(":")[2] or 0) >= gpus:
        raise BadInput(
            f"SHOAL_SCORING_DEVICE is '{wanted}', and torch sees {gpus} GPUs here: is it the build for CUDA (make install-gpu), "
            "and is the GPU in CUDA_VISIBLE_DEVICES?",
            field="scoring_device",
        )
    return wanted


def _has_room(number: int) -> bool:
    free, total = torch.cuda.mem_get_info(number)
    return free >= ROOM * total
