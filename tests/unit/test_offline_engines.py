"""The engine that a config names: what is refused before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarm_worker.offline import engines
from swarm_worker.offline.config import EngineConfig
from tests.contract.tiny_model import make_base


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"name": "llama"}, r"engine\.name must be one of transformers, vllm, openai, not 'llama'"),
        ({"options": {"quick": True}}, r"transformers has no option 'quick'; it has .*device, dtype, mode"),
        (
            {"options": {"dtype": "int4"}},
            r"engine\.options\.dtype must be one of float32, bfloat16, float16, not 'int4'",
        ),
        ({"name": "openai", "options": {"url": "http://x/v1"}}, r"engine\.options\.model is missing"),
        ({"name": "openai", "options": {"api_key": "k"}}, r"put the key into SHOAL_SCORING_API_KEY"),
        ({"name": "openai", "mode": "merged"}, r"openai has no option 'mode'"),
    ],
)
def test_what_an_engine_does_not_know_is_refused(config: dict[str, object], told: str) -> None:
    """With the choices; a key never comes from a file that is kept with the result."""
    with pytest.raises(ValueError, match=told):
        engines.load("base", EngineConfig.model_validate(config))


@pytest.mark.parametrize("mode", ["merged", "stacked"])
def test_mode_and_dtype_reach_the_engine(tmp_path: Path, mode: str) -> None:
    """The engine's identity names both."""
    base = make_base(tmp_path / "base")
    config = EngineConfig.model_validate({"mode": mode, "options": {"dtype": "float32"}})
    assert engines.load(str(base), config).identity == f"transformers-{mode}-cpu-float32"
