"""Which answers are recorded, for how long, and through which hooks their text passes first. Pure.

A setting says so for the whole service, a policy for one adapter. What is not recorded can still be rated, with the prompt
and the answer inline.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from registry.durations import Seconds
from registry.records import Record

Mode = Literal["off", "sampled", "all"]
Rate = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
RedactorName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]


class RecordingPolicy(Record):
    """How the prompts and answers of one adapter are recorded; what is None is as the service's settings say.

    ``mode``: all, none, or a sample with ``rate`` (0 to 1) of the requests. ``keep_for``: seconds, or 12h, 30d. ``redact``: the
    name of an installed redactor, which text passes after the one of the settings.
    """

    mode: Mode | None = None
    rate: Rate | None = None
    keep_for: Annotated[Seconds, Field(ge=1, le=3650 * 86400)] | None = None
    redact: RedactorName | None = None


@dataclass(frozen=True, slots=True)
class Recording:
    """How an adapter's answers are recorded, with nothing left open. ``keep_for`` in seconds."""

    mode: Mode
    rate: float
    keep_for: float
    redact: str | None = None

    def under(self, policy: RecordingPolicy) -> Recording:
        """These settings where the policy leaves it open, the policy where it does not."""
        return Recording(
            mode=self.mode if policy.mode is None else policy.mode,
            rate=self.rate if policy.rate is None else policy.rate,
            keep_for=self.keep_for if policy.keep_for is None else policy.keep_for,
            redact=self.redact if policy.redact is None else policy.redact,
        )

    def takes(self, request_id: str) -> bool:
        """Whether the answer to a request is recorded. Every replica draws the same for one id."""
        return self.mode == "all" or (self.mode == "sampled" and _drawn(request_id) < self.rate)


def _drawn(request_id: str) -> float:
    """A number in [0, 1) that follows from the id and looks random."""
    return int.from_bytes(hashlib.sha256(request_id.encode()).digest()[:7], "big") / 2**56
