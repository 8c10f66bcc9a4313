"""Logs: text for people, or one JSON object a line for machines, with the ids of what was being done.

``bound(run=..., adapter=...)`` says what the lines within are about; ``bind`` says it until the end of a request's or a thread's
own context. Both follow into tasks and threads that asyncio starts. Neither prompts nor secrets are ever bound or logged.
"""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from registry.errors import BadInput
from registry.settings import explain

_ABOUT: ContextVar[Mapping[str, Any]] = ContextVar("shoal_log_about", default={})  # noqa: B039  # replaced, never changed
_PROCESS: dict[str, str] = {}
OWN = ("shoal", "service", "registry", "swarm_worker")
"""The loggers that are Shoal's."""


class LogSettings(BaseSettings):
    """How every process writes its log. Read from ``SHOAL_*``."""

    model_config = SettingsConfigDict(env_prefix="SHOAL_", frozen=True, extra="ignore", env_ignore_empty=True)

    log_format: Literal["text", "json"] = Field(
        default="text", description="How the processes write their logs; 'json': one object a line."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="How much the processes tell."
    )

    @classmethod
    def load(cls) -> LogSettings:
        """The settings, or one ``BadInput`` that names every wrong variable."""
        try:
            return cls()
        except ValidationError as wrong:
            raise BadInput(explain(wrong)) from wrong


@contextmanager
def bound(**about: Any) -> Iterator[None]:
    """Lines within are about this as well."""
    token = _ABOUT.set({**_ABOUT.get(), **about})
    try:
        yield
    finally:
        _ABOUT.reset(token)


def bind(**about: Any) -> None:
    """Lines from here on are about this as well, in this context: one request's, one thread's."""
    _ABOUT.set({**_ABOUT.get(), **about})


def name_process(**ids: str) -> None:
    """Every line of this process carries these: ``replica`` or ``worker``."""
    _PROCESS.update(ids)


def process_name(kind: str) -> str:
    """What ``name_process`` was told; "" where it was told nothing."""
    return _PROCESS.get(kind, "")


def configure(settings: LogSettings | None = None, *, level: int | None = None) -> bool:
    """Set up this process's logs as the settings say; whether they are JSON. Repeatable.

    JSON takes over every logger there is, also those that libraries set up before, and what is printed to standard output.
    Text leaves the libraries' handlers as they are. ``level``: of everybody's, where the caller was told one.
    """
    settings = settings or LogSettings.load()
    for name in OWN:
        logging.getLogger(name).setLevel(settings.log_level.upper())
    if settings.log_format == "text":
        return False
    handler = logging.StreamHandler(sys.__stderr__)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    if level is not None:
        root.setLevel(level)
    for logger in list(root.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger) and logger.handlers:
            logger.handlers = []
            logger.propagate = True
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    if not isinstance(sys.stdout, _Lines):
        sys.stdout = _Lines(logging.getLogger("stdout"))
    return True


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON: time (UTC), level, logger, message, the ids that are bound, and the traceback if any."""

    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_PROCESS,
            **_ABOUT.get(),
        }
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False, default=str)


class _Lines(io.TextIOBase):
    """What libraries print, as lines of a log: banners at the start, mostly."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._log.setLevel(logging.INFO)
        self._rest = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.strip():
                self._log.info("%s", line.rstrip())
        return len(text)


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        logging.getLogger("shoal").critical("the process ends", exc_info=(kind, error, trace))
