"""What the service may be told from outside. Built once, at the start, and passed down."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from registry.errors import BadInput
from registry.settings import explain
from service.engine import LINEAR_LAYERS


class ServiceSettings(BaseSettings):
    """Address, key and engine of one replica. Read from ``SHOAL_*``."""

    model_config = SettingsConfigDict(env_prefix="SHOAL_", frozen=True, extra="ignore", env_ignore_empty=True)

    host: str = Field(
        default="127.0.0.1", description="Address to listen on; any other than loopback needs SHOAL_API_KEY."
    )
    port: int = Field(default=3000, ge=1, le=65535, description="Port to listen on.")
    api_key: SecretStr | None = Field(default=None, description="The one admin key; unset: no keys, loopback only.")
    rate_limit: float = Field(
        default=0.0,
        ge=0,
        description="Requests a second that a key may send, where it has no rate of its own; 0: any number.",
    )
    max_body_mb: int = Field(default=32, ge=1, description="The largest request body but for uploads, in megabytes.")
    home: Path = Field(
        default=Path(".shoal"), description="Where this replica keeps its spool and its last known rollouts."
    )
    engine: Literal["vllm", "stub"] = Field(
        default="vllm", description="What answers; 'stub' is for tests of the rest."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="The engine's number format."
    )
    max_loras: int = Field(
        default=4,
        ge=2,
        le=256,
        description="Versions loaded at once; 2 an adapter, 1 a trial or a pin, and 1 more keep every way back loaded.",
    )
    max_model_len: int | None = Field(default=None, ge=16, description="Longest prompt and answer together, in tokens.")
    kv_cache_gib: float = Field(default=1.0, gt=0, description="Memory for the engine's KV cache, on CPU.")
    gpu_memory_utilization: float = Field(
        default=0.9, gt=0, le=1, description="Share of a GPU's memory that the engine takes."
    )
    lora_modules: str = Field(
        default=",".join(LINEAR_LAYERS),
        description="Layers that adapters may change, by the last part of their name; 'all': whatever the engine can adapt.",
    )
    tool_call_parser: str | None = Field(
        default=None, description="vLLM's parser of tool calls; turns on tool choice 'auto'."
    )
    chat_template: str | None = Field(default=None, description="A chat template file, where the base has none.")
    engine_args: str = Field(default="", description="Further arguments of `vllm serve`, as in a shell.")
    poll_seconds: float = Field(default=0.5, gt=0, description="How often a replica looks whether a rollout moved.")
    ready_timeout: float = Field(default=60.0, gt=0, description="How long a move waits for all replicas to be ready.")
    drain_timeout: float = Field(
        default=60.0, gt=0, description="How long a version that is unloaded may go on answering."
    )

    stop_notice: float = Field(
        default=0.0,
        ge=0,
        le=300,
        description="Seconds that /readyz says 503 before a stopping replica closes its port.",
    )

    @model_validator(mode="after")
    def _keys_beyond_loopback(self) -> ServiceSettings:
        if self.api_key is None and not is_loopback(self.host):
            raise ValueError(f"host {self.host} is not loopback: set SHOAL_API_KEY, or listen on 127.0.0.1")
        return self

    @property
    def replica_id(self) -> str:
        return f"{socket.gethostname()}:{self.port}"

    @classmethod
    def load(cls, **given: Any) -> ServiceSettings:
        """The settings, or one ``BadInput`` that names every wrong variable."""
        try:
            return cls(**given)
        except ValidationError as wrong:
            raise BadInput(explain(wrong)) from wrong


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
