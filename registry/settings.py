"""Where the registry keeps what it keeps. Built once at the entry point and passed down."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from registry.errors import BadInput

ENGINE_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # the values vLLM 0.32 takes for max_lora_rank


class RegistrySettings(BaseSettings):
    """Redis, artifacts, and what may be registered. Read from ``SHOAL_*``; ``load()`` says clearly what is wrong."""

    model_config = SettingsConfigDict(env_prefix="SHOAL_", frozen=True, extra="forbid", env_ignore_empty=True)

    redis_url: str = Field(default="redis://127.0.0.1:6379/0", description="The Redis that holds the records.")
    namespace: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] = Field(
        default="shoal", description="The prefix of every key, so that several Shoals can share a Redis."
    )
    artifacts_url: str = Field(
        default="./.shoal/artifacts", min_length=1, description="Where weights are kept: a path or an fsspec URL."
    )
    cache_dir: str = Field(
        default="./.shoal/cache", min_length=1, description="Where this machine keeps its verified copies of weights."
    )
    cache_max_gib: float = Field(
        default=20.0,
        ge=0,
        description="The most that those copies take, in GiB; what nobody uses leaves first. 0: no bound.",
    )
    base: str | None = Field(
        default=None, description="The base model, a folder or a Hugging Face id: adapters are checked against it."
    )
    max_lora_rank: int = Field(
        default=16, description="The highest rank of an adapter. Every request pays for it, so keep it low."
    )
    max_upload_mb: int = Field(default=512, ge=1, description="The largest adapter, in megabytes, unpacked.")
    import_from: str = Field(
        default="hf://",
        description="What an address to import from must begin with: URLs, separated by commas; 'off': no such imports.",
    )
    interactions_days: int = Field(default=30, ge=1, le=3650, description="How long recorded prompts are kept.")
    record_interactions: Literal["all", "sampled", "off"] = Field(
        default="all",
        description="Which prompts and answers are recorded, so that feedback may name a request id; a policy may say otherwise.",
    )
    record_rate: float = Field(
        default=0.1, ge=0, le=1, description="The share of requests that is recorded where it is 'sampled'."
    )
    redact: str | None = Field(
        default=None,
        description="A function that text passes before it is stored: package.module:function, or an installed redactor.",
    )

    @field_validator("redis_url")
    @classmethod
    def _redis_scheme(cls, value: str) -> str:
        if not value.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("must start with redis://, rediss:// or unix://")
        return value

    @field_validator("max_lora_rank")
    @classmethod
    def _engine_rank(cls, value: int) -> int:
        if value not in ENGINE_RANKS:
            raise ValueError(f"must be one of {', '.join(map(str, ENGINE_RANKS))}")
        return value

    @field_validator("import_from")
    @classmethod
    def _prefixes(cls, value: str) -> str:
        if not all(re.fullmatch(r"[a-z][a-z0-9+.-]*://[^\s?#%\\]*", each) for each in _listed(value)):
            raise ValueError("must be URLs such as hf://my-org/ or s3://bucket/prefix/, separated by commas, or 'off'")
        return value

    @property
    def import_prefixes(self) -> tuple[str, ...]:
        return _listed(self.import_from)

    @property
    def max_bytes(self) -> int:
        return self.max_upload_mb * 1_000_000

    @property
    def cache_bytes(self) -> int:
        return int(self.cache_max_gib * (1 << 30))

    @classmethod
    def load(cls, **given: Any) -> RegistrySettings:
        """The settings, or one ``BadInput`` that names every wrong variable, what it must be and what it was.

        A secret in ``redis_url`` is not repeated in the message.
        """
        try:
            return cls(**given)
        except ValidationError as wrong:
            raise BadInput(explain(wrong)) from wrong


def _listed(value: str) -> tuple[str, ...]:
    return () if value == "off" else tuple(each.strip() for each in value.split(",") if each.strip())


def explain(wrong: ValidationError, prefix: str = "SHOAL_") -> str:
    """The errors of a settings class as sentences about environment variables."""
    told = []
    for error in wrong.errors(include_url=False):
        name = "_".join(str(part) for part in error["loc"])
        held = "" if "url" in name or "key" in name else f" (it is {error.get('input')!r})"
        told.append(f"{prefix}{name.upper()}: {error['msg']}{held}")
    return "Settings are wrong. " + "; ".join(told)
