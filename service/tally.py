"""Tally: what this replica counted of each version, for Prometheus at once and for the registry every few seconds."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import defaultdict
from collections.abc import Callable

from registry.errors import RegistryDown, ShoalError
from registry.figures import Figures, first_field
from registry.records import Rollout
from service.exchanges import Exchange
from service.series import Labels

log = logging.getLogger("shoal.replica")

SHORTEST = 1e-6  # seconds: a logarithm needs some


class Tally:
    """Counts on the event loop; ``run`` carries the sums to the registry. While Redis is away they wait.

    ``rollout`` says which versions have a label for Prometheus whatever happens (``Labels``)."""

    def __init__(
        self, figures: Figures, *, rollout: Callable[[str], Rollout | None] = lambda _: None, every: float = 2.0
    ) -> None:
        self._figures = figures
        self._every = every
        self._sums: dict[tuple[str, int], dict[str, float]] = {}
        self.labels = Labels(rollout)

    def answered(self, exchange: Exchange) -> None:
        """Count one exchange with a user."""
        outcome = "error" if exchange.error is not None else "aborted" if exchange.aborted else "ok"
        series, tokens = self.labels.of(exchange.version), tokens_of(exchange)
        series.requests[outcome] += 1
        series.seconds.add(exchange.seconds)
        series.tokens += tokens
        counted: dict[str, float] = {"requests": 1}
        if outcome == "error":
            counted["errors"] = 1
        elif outcome == "aborted":
            counted["aborted"] = 1
        elif tokens:
            counted |= {"tokens": tokens, "seconds": exchange.seconds - exchange.seconds_to_admission}
        if outcome != "error":
            # Who left would have waited longer still. Before he reads a word his patience knows of no version, so what is
            # slower has the longer waits all the same; left out, what is too slow for anybody would look like its quick answers.
            waited = math.log(max(exchange.seconds_to_first or exchange.seconds, SHORTEST))
            counted |= {"waits": 1, "wait_logs": waited, "wait_log_squares": waited**2}
        if exchange.seconds_to_first is not None:
            series.first_seconds.add(exchange.seconds_to_first)
            counted[first_field(exchange.seconds_to_first)] = 1
        self.add(exchange.version, **counted)

    def add(self, version: str, **counted: float) -> None:
        """Add to the sums of ``support-bot@7``; the base has none."""
        adapter, at, number = version.rpartition("@")
        if not at:
            return
        sums = self._sums.setdefault((adapter, int(number)), defaultdict(float))
        for field, amount in counted.items():
            sums[field] += amount

    async def run(self) -> None:
        """Carry the sums on until cancelled."""
        while True:
            await asyncio.sleep(self._every)
            await self.flush()

    async def flush(self) -> None:
        """Carry on what was counted up to now, and end the series that there is no room for."""
        self.labels.tidy()
        taken, self._sums = self._sums, {}
        try:
            await asyncio.to_thread(self._figures.add_many, taken)
        except RegistryDown:
            for (adapter, number), sums in taken.items():
                self.add(f"{adapter}@{number}", **sums)
        except ShoalError as error:
            log.warning("figures of %d versions are lost: %s", len(taken), error)


def tokens_of(exchange: Exchange) -> int:
    """Tokens of an answer; of a stream that told no usage, its chunks with text: a lower bound, nearly exact."""
    if exchange.answer_tokens is not None:
        return exchange.answer_tokens
    return exchange.chunks
