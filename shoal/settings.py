"""What ``shoal up`` may be told. Built once, by the command or by whoever uses ``Up``, and passed down."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from registry.settings import explain
from shoal.errors import UpError

LogLevel = Literal["debug", "info", "warning", "error"]


class UpSettings(BaseSettings):
    """Read from ``SHOAL_*``; an option of the command goes before its variable.

    Other ``SHOAL_*`` variables are not read here: they reach the processes as they are.
    """

    model_config = SettingsConfigDict(env_prefix="SHOAL_", frozen=True, extra="forbid", env_ignore_empty=True)

    base: str | None = Field(
        default=None, description="The base model: a folder or a Hugging Face id; none: the starter's."
    )
    home: Path = Field(default=Path(".shoal"), description="Where this machine's state and logs are kept.")
    host: str = Field(default="127.0.0.1", description="The address that the service listens on.")
    port: int = Field(default=3000, ge=1, le=65535, description="The port that the service listens on.")
    log_level: LogLevel = Field(default="info", description="How much the processes tell.")
    log_format: Literal["text", "json"] = Field(
        default="text", description="How the processes write their logs; 'json': one object a line."
    )
    redis_url: str | None = Field(default=None, description="A Redis of yours; none: one is started under the home.")
    artifacts_url: str | None = Field(default=None, description="Where weights are kept; none: under the home.")
    cache_dir: str | None = Field(default=None, description="Where fetched weights are kept; none: under the home.")
    api_key: SecretStr | None = Field(default=None, description="The admin key. Needed for any address but loopback.")
    import_starter: bool = Field(default=True, description="Whether the starter pack's experts are imported.")

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches the service."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def url(self) -> str:
        """Where this machine reaches the service; an address that means "all" is not one to call."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104  # compared, not bound
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        """The processes do not run where the command was typed."""
        return home.expanduser().absolute()

    @field_validator("base")
    @classmethod
    def _folder_or_id(cls, base: str | None) -> str | None:
        """A folder as an absolute path, a Hugging Face id as it is."""
        if base is None:
            return None
        path = Path(base).expanduser()
        if path.is_dir():
            return str(path.resolve())
        if path.is_absolute() or base.startswith((".", "~")) or base.count("/") > 1:
            raise ValueError("there is no such folder; give a model's folder, or a Hugging Face id such as org/name")
        return base

    @classmethod
    def load(cls, **given: Any) -> UpSettings:
        """The settings, or one ``UpError`` that names every wrong value. ``None`` is the same as not given."""
        try:
            return cls(**{key: value for key, value in given.items() if value is not None})
        except ValidationError as wrong:
            raise UpError(explain(wrong)) from wrong
