"""What a worker may be told from outside. Built once per process and passed down."""

from __future__ import annotations

from typing import Any

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from registry.durations import seconds
from registry.errors import BadInput
from registry.settings import explain


class WorkerSettings(BaseSettings):
    """Scoring, deadlines and the schedule. Read from ``SHOAL_*``."""

    model_config = SettingsConfigDict(env_prefix="SHOAL_", frozen=True, extra="ignore", env_ignore_empty=True)

    scoring_threads: int = Field(default=0, ge=0, description="CPU threads of a scoring worker; 0: half the cores.")
    scoring_device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="What scoring runs on: 'cpu', 'cuda', 'cuda:1'; 'auto': the first GPU that is half free, else the CPU.",
    )
    slice_size: int = Field(default=0, ge=0, description="Positions a scoring message; 0: a generation in 16 slices.")
    slices_ahead: int = Field(
        default=4,
        ge=1,
        description="Slices of one run that may be under way at a time: runs take turns on the workers.",
    )
    lease_seconds: float = Field(default=12.0, gt=1, description="How long a silent worker keeps its slice.")
    slice_deadline: float = Field(
        default=15.0, gt=1, description="Seconds after which an unclaimed slice is sent again."
    )
    report_patience: float = Field(
        default=120.0, ge=0, description="How long a scoring worker keeps a report that Redis is not there to take."
    )
    stall_seconds: float = Field(
        default=900.0,
        gt=0,
        description="Seconds that a scoring worker may go without a step (a load, a pass, a step of training) until it is ended.",
    )
    control_deadline: float = Field(
        default=300.0, gt=0, description="How long a control worker may be at one move until it is ended as stuck."
    )
    trouble_pause: float = Field(
        default=5.0,
        ge=0,
        description="How long a scoring worker whose base cannot be loaded waits until it tries again.",
    )
    stuck_seconds: float = Field(
        default=300.0, gt=0, description="How long a run may meet the same trouble until it ends as failed."
    )
    tick_seconds: float = Field(default=5.0, gt=0, description="How often Celery beat looks after the runs.")
    max_answer_tokens: int = Field(default=64, ge=1, description="Longest answer that the gate generates.")
    ready_timeout: float = Field(default=60.0, gt=0, description="How long a move waits for all replicas to be ready.")
    adapt_every: float = Field(
        default=0.0, ge=0, description="Seconds (or 30m, 6h, 1d) between runs; 0: never by itself."
    )
    adapt_min_new: int = Field(
        default=100, ge=1, description="Fewest new feedback items for a run that starts by itself."
    )

    @field_validator("adapt_every", mode="before")
    @classmethod
    def _duration(cls, value: Any) -> Any:
        """``6h`` reads better in an environment than ``21600``."""
        return seconds(value)

    @classmethod
    def load(cls, **given: Any) -> WorkerSettings:
        """The settings, or one ``BadInput`` that names every wrong variable."""
        try:
            return cls(**given)
        except ValidationError as wrong:
            raise BadInput(explain(wrong)) from wrong
