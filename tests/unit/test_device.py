"""Which device a scoring worker takes. No GPU is needed: torch is told what there is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from registry.errors import BadInput
from registry.settings import RegistrySettings
from swarm_worker import slices
from swarm_worker.device import device_of
from swarm_worker.settings import WorkerSettings

TOTAL = 80 * 2**30


def gpus(monkeypatch: pytest.MonkeyPatch, *free: float) -> None:
    """As many GPUs as there are numbers, of which so large a part of the memory is free."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(free))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(free))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (int(free[number] * TOTAL), TOTAL))


@pytest.mark.parametrize(
    ("wanted", "free", "device"),
    [
        ("auto", (), "cpu"),
        ("auto", (0.9,), "cuda:0"),
        ("auto", (0.1, 0.9), "cuda:1"),
        ("auto", (0.1,), "cpu"),
        ("cpu", (0.9,), "cpu"),
        ("cuda", (0.1,), "cuda"),
        ("cuda:1", (0.9, 0.1), "cuda:1"),
    ],
)
def test_the_device_is_a_gpu_with_room_or_the_one_that_is_named(
    monkeypatch: pytest.MonkeyPatch, wanted: str, free: tuple[float, ...], device: str
) -> None:
    """By itself a worker leaves the GPU of the engine that answers users alone; a name is taken at its word."""
    gpus(monkeypatch, *free)
    assert device_of(wanted) == device


@pytest.mark.parametrize(("wanted", "free"), [("cuda", ()), ("cuda:1", (0.9,))])
def test_a_gpu_that_is_not_there_is_refused(
    monkeypatch: pytest.MonkeyPatch, wanted: str, free: tuple[float, ...]
) -> None:
    """And the refusal says what to look at; nothing is scored on the CPU where a GPU was asked for."""
    gpus(monkeypatch, *free)
    with pytest.raises(BadInput, match=f"SHOAL_SCORING_DEVICE is '{wanted}'.*make install-gpu"):
        device_of(wanted)


@pytest.mark.parametrize("wrong", ["gpu", "cuda:", "cuda:x", "mps"])
def test_a_word_that_is_no_device_stops_the_start(wrong: str) -> None:
    """Named as the variable that it is."""
    with pytest.raises(BadInput, match="SHOAL_SCORING_DEVICE"):
        WorkerSettings.load(scoring_device=wrong)


@pytest.mark.parametrize(
    ("device", "mode", "size", "at_once"),
    [("cpu", "merged", 7, 1), ("cuda:0", "stacked", 0, slices.STACKED), ("cuda:0", "stacked", 7, 7)],
)
def test_the_base_is_loaded_there(
    monkeypatch: pytest.MonkeyPatch, device: str, mode: str, size: int, at_once: int
) -> None:
    """Where it lies side by side, a whole slice is scored in one go."""
    gpus(monkeypatch, 0.9)
    loaded: list[Any] = []

    def load(base: str, *, device: str) -> Any:
        loaded.append((base, device))
        return SimpleNamespace(mode=mode, identity="test")

    monkeypatch.setattr(slices.TransformersEngine, "load", load)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    registry: Any = SimpleNamespace(settings=RegistrySettings(base="some/base"))
    made = slices.scorer.__wrapped__(registry, WorkerSettings(scoring_device=device, slice_size=size))
    assert loaded == [("some/base", device)]
    assert made.at_once == at_once
