"""The engines there are, by the name that a setting gives them. Importing this imports no engine."""

from __future__ import annotations

from service.engine import Engine, EngineSettings

KINDS = ("vllm", "stub")


def make_engine(kind: str, settings: EngineSettings) -> Engine:
    """An engine that is not started yet. ``vllm`` answers with a model; ``stub`` repeats what it is asked."""
    if kind == "vllm":
        from service.engines.vllm import VllmEngine

        return VllmEngine(settings)
    if kind == "stub":
        from service.engines.stub import StubEngine

        return StubEngine(settings)
    raise ValueError(f"unknown engine {kind!r}: one of {', '.join(KINDS)}")
