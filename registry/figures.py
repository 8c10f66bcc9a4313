"""Figures: what each version did for its users, summed over all replicas and restarts.

One hash an adapter, a sum a field; ``VERSION:FIELD``. Replicas add what they counted every few seconds; ratings are added
in the same step that stores the feedback (``lua/add_feedback.lua``), in billionths, and taken back where a later one replaces
them (``rating_sum`` holds those of before). A batch whose answer was lost on the wire may count
twice: these are figures, not records.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from registry.connection import RegistryRedis
from registry.keys import Keys
from registry.ratings import NANO, RATING_SUMS

FIRST_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Upper bounds of the histogram of times to the first token, in seconds."""
COMPARED = (*RATING_SUMS, "rating_square_nano", "requests", "errors", "waits", "wait_logs", "wait_log_squares")
"""What a trial is decided by. ``wait``: seconds until a user could read, the first token of a stream or the whole answer."""
Sums = Mapping[str, float]


class Figures:
    """The sums of every version. A field of ``SUMS`` in, readable figures out."""

    def __init__(self, client: RegistryRedis, keys: Keys) -> None:
        self._redis = client
        self._keys = keys

    def add_many(self, counted: Mapping[tuple[str, int], Sums]) -> None:
        """Adds to the sums of (adapter, version); one round trip."""
        if not counted:
            return
        with self._redis.pipeline(transaction=False) as pipe:
            for (adapter, version), sums in counted.items():
                for field, amount in sums.items():
                    pipe.hincrbyfloat(self._keys.figures(adapter), f"{version}:{field}", amount)
            pipe.execute()

    def sums(self, adapter: str, versions: Iterable[int]) -> dict[int, dict[str, float]]:
        """What is compared in a trial (``COMPARED``), of these versions alone: zeros are left out. One round trip."""
        wanted = [(version, field) for version in dict.fromkeys(versions) for field in COMPARED]
        found: dict[int, dict[str, float]] = {version: {} for version, _ in wanted}
        if wanted:
            amounts = self._redis.hmget(
                self._keys.figures(adapter), [f"{version}:{field}" for version, field in wanted]
            )
            for (version, field), amount in zip(wanted, amounts, strict=True):
                if amount is not None and float(amount):
                    found[version][field] = float(amount)
        return found

    def read(self, adapter: str) -> dict[int, dict[str, Any]]:
        """The figures of each version that did anything, by number."""
        found: dict[int, dict[str, float]] = defaultdict(dict)
        for name, amount in self._redis.hgetall(self._keys.figures(adapter)).items():
            version, _, field = str(name).partition(":")
            found[int(version)][field] = float(amount)
        return {version: readable(found[version]) for version in sorted(found)}


def first_field(seconds: float) -> str:
    """The field that counts an answer whose first token took so long."""
    bound = next((bound for bound in FIRST_SECONDS if seconds <= bound), None)
    return "first:inf" if bound is None else f"first:{bound:g}"


def readable(sums: Sums) -> dict[str, Any]:
    """Sums as what a person asks for: means, a median and rates; None where there is nothing to divide by."""

    def of(field: str) -> float:
        return sums.get(field, 0.0)

    return {
        "requests": int(of("requests")),
        "errors": int(of("errors")),
        "aborted": int(of("aborted")),
        "seconds_to_first_p50": _median(sums),
        "tokens_per_second": _ratio(of("tokens"), of("seconds")),
        "rating_mean": _ratio(of("rating_sum") + of("rating_nano") / NANO, of("ratings")),
        "ratings": int(of("ratings")),
        "shadow": {
            "requests": int(of("shadow_requests")),
            "errors": int(of("shadow_errors")),
            "dropped": int(of("shadow_dropped")),
            "exact": _ratio(of("shadow_exact"), of("shadow_compared")),
            "agreement": _ratio(of("shadow_agreement"), of("shadow_compared")),
            "tokens_per_second": _ratio(of("shadow_tokens"), of("shadow_seconds")),
            "seconds_mean": _ratio(of("shadow_seconds"), of("shadow_compared")),
        },
    }


def _ratio(above: float, below: float) -> float | None:
    return above / below if below else None


def _median(sums: Sums) -> float | None:
    """From the histogram, as Prometheus does: evenly spread inside a bucket; its last bound where it lies beyond."""
    total = sum(amount for field, amount in sums.items() if field.startswith("first:"))
    if not total:
        return None
    below, lower = 0.0, 0.0
    for bound in FIRST_SECONDS:
        inside = sums.get(f"first:{bound:g}", 0.0)
        if inside and below + inside >= total / 2:
            return lower + (bound - lower) * (total / 2 - below) / inside
        below, lower = below + inside, bound
    return FIRST_SECONDS[-1]
