"""What is counted while it happens, by version: vLLM's own metrics carry the base model's name only.

What can be looked up when somebody asks is not counted here: see ``service/exposition.py``.
"""

from __future__ import annotations

from prometheus_client import Counter, Histogram

# Imported when the service starts, not before: BentoML sets prometheus_client's multi-process folder first.
REQUESTS = Counter("shoal_requests_total", "Answers by the version that gave them.", ["version", "outcome"])
SECONDS = Histogram(
    "shoal_request_seconds",
    "From request to the end of its answer.",
    ["version"],
    buckets=(0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
FIRST_SECONDS = Histogram(
    "shoal_time_to_first_token_seconds",
    "From request to the first streamed event.",
    ["version"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
TOKENS = Counter("shoal_output_tokens_total", "Tokens of answers by the version that gave them.", ["version"])
SHADOW = Counter("shoal_shadow_requests_total", "Questions to a trial on the side.", ["version", "outcome"])
LOADS = Histogram(
    "shoal_adapter_load_seconds", "Loading and probing a version.", buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 30)
)
CHANGES = Counter("shoal_adapter_changes_total", "What happened to versions in the engine.", ["kind"])
FEEDBACK = Counter("shoal_feedback_total", "Feedback items taken in.", ["adapter"])
