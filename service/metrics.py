"""What is counted while it happens. What is counted by version is in ``service/series.py``; what can be looked up when
somebody asks is not counted at all: see ``service/exposition.py``.
"""

from __future__ import annotations

from prometheus_client import Counter, Histogram

# Imported when the service starts, not before: BentoML sets prometheus_client's multi-process folder first.
LOADS = Histogram(
    "shoal_adapter_load_seconds", "Loading and probing a version.", buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 30)
)
CHANGES = Counter("shoal_adapter_changes_total", "What happened to versions in the engine.", ["kind"])
FEEDBACK = Counter("shoal_feedback_total", "Feedback items taken in.", ["adapter"])
