"""The ids of a run's trace, from the run's own id: whoever knows the run knows them, so spans of many processes join. Pure.

The trace is the run's; the run, each step and each slice have a span id of their own, the same however often it is computed. A
message carries the step it belongs to as a W3C ``traceparent``.
"""

from __future__ import annotations

import hashlib

SAMPLED = 1


def trace_id(run_id: str) -> int:
    """128 bits for a run."""
    return int.from_bytes(_digest(run_id)[:16])


def span_id(run_id: str, *parts: str) -> int:
    """64 bits for a part of a run; without ``parts``, for the run itself."""
    return int.from_bytes(_digest(run_id, *parts, "span")[:8])


def traceparent(run_id: str, step: str, *, sampled: bool = True) -> str:
    """What a message of a step carries: version, trace, the step's span, flags (W3C Trace Context, 3.2)."""
    return f"00-{trace_id(run_id):032x}-{span_id(run_id, step):016x}-{SAMPLED * sampled:02x}"


def _digest(*parts: str) -> bytes:
    return hashlib.sha256("\0".join(("shoal", *parts)).encode()).digest()
