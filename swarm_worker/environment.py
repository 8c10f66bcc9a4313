"""Where bytes are computed: what has to be the same for the same bytes to come out, and one thread to compute them on."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

import torch

from registry.records import Environment


def here() -> Environment:
    """The environment of this process."""
    return Environment(
        torch=torch.__version__,
        numpy=version("numpy"),
        safetensors=version("safetensors"),
        machine=platform.machine(),
        cpu=_cpu(),
        instructions=torch.backends.cpu.get_cpu_capability(),
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums that are split over threads are rounded as they were split: on one thread they are rounded one way."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _cpu() -> str:
    """The model's name with family and model number, as a hypervisor's name for it stands for several."""
    told: dict[str, str] = {}
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            key, _, value = line.partition(":")
            told.setdefault(key.strip(), value.strip())
    name = told.get("model name") or platform.processor() or "unknown"
    return (
        f"{name}, family {told['cpu family']}, model {told['model']}" if {"cpu family", "model"} <= set(told) else name
    )
