"""The scoring engines that a config may name. Each is imported when it is used: vLLM alone takes seconds."""

from __future__ import annotations

import inspect
import os
from importlib import import_module
from pathlib import Path
from typing import Any

from swarm_worker.offline.config import EngineConfig
from swarm_worker.scoring.engine import ScoringEngine

ENGINES: dict[str, tuple[str, str]] = {
    "transformers": ("swarm_worker.scoring.transformers", "TransformersEngine"),
    "vllm": ("swarm_worker.scoring.vllm", "VllmEngine"),
    "openai": ("swarm_worker.scoring.openai", "OpenAIEngine"),
}
"""Where each is: module and class. Not ``token_mix``: of a mix of whole models no adapter can be written."""

KEY_VARIABLE = "SHOAL_SCORING_API_KEY"
"""The environment variable that holds the key of an ``openai`` endpoint."""


def load(base: str, chosen: EngineConfig) -> ScoringEngine:
    """The engine with ``base`` in it. Raises ``ValueError`` for an unknown name, mode or option, with those there are."""
    if chosen.name not in ENGINES:
        raise ValueError(f"engine.name must be one of {', '.join(ENGINES)}, not {chosen.name!r}")
    module, name = ENGINES[chosen.name]
    loader = getattr(import_module(module), name).load
    options = dict(chosen.options) | ({} if chosen.mode is None else {"mode": chosen.mode})
    parameters = inspect.signature(loader).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    takes_more = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    for option in options:
        if option not in known and not takes_more:
            raise ValueError(f"engine: {chosen.name} has no option {option!r}; it has {', '.join(known)}")
    if chosen.name == "transformers" and "dtype" in options:
        options["dtype"] = _dtype(options["dtype"])
    if chosen.name == "openai":
        options |= _of_an_endpoint(options)
    return loader(base, **options)


def _of_an_endpoint(options: dict[str, Any]) -> dict[str, Any]:
    if "api_key" in options:
        raise ValueError(f"engine.options.api_key: a config is kept with its result; put the key into {KEY_VARIABLE}")
    if missing := [name for name in ("url", "model") if name not in options]:
        raise ValueError(
            f"engine.options.{missing[0]} is missing: openai needs url (with /v1) and the model's name there"
        )
    given: dict[str, Any] = {"api_key": os.environ.get(KEY_VARIABLE) or "none"}
    return given | ({"shared": Path(options["shared"])} if "shared" in options else {})


def _dtype(name: str) -> Any:
    """torch's dtype of this name."""
    import torch

    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in dtypes:
        raise ValueError(f"engine.options.dtype must be one of {', '.join(dtypes)}, not {name!r}")
    return dtypes[name]
