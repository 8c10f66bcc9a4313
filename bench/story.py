"""One adapter of a real Shoal with the starter pack's experts and feedback, and a run on them that is watched to its end."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from registry.errors import ShoalError
from registry.records import GOING
from shoal.client import Client
from shoal.starter_pack import StarterPack
from starter.skills import items

BACK_SECONDS, RUN_SECONDS = 180.0, 600.0
EXPERTS = ("dedup", "reverse", "shift", "swap")
"""The first, the champion, does worst at what users ask: there is something to find."""


@dataclass(frozen=True)
class Size:
    """What a run costs."""

    feedback: int
    search_items: int
    budget: int


FULL, QUICK = Size(feedback=300, search_items=100, budget=10_000), Size(feedback=260, search_items=60, budget=1_500)


class Story:
    """One adapter with experts and feedback, and a run on them that is watched to its end."""

    def __init__(self, client: Client, adapter: str, size: Size) -> None:
        self.client, self.adapter = client, adapter
        found = {expert.name: expert for expert in StarterPack.found().experts}
        with self._fresh() as fresh:
            for name in EXPERTS:
                fresh.import_version(adapter, found[name], label=name)
            fresh.set_policy(adapter, {"gate": {"min_accepted": 0}})  # nobody accepts anything of the first expert's
            fresh.send_feedback(feedback_of(adapter, size.feedback))
            self._began = time.monotonic()
            self.run = fresh.start_run(
                adapter=adapter, seed=1, search_items=size.search_items, max_item_generations=size.budget
            )
        self.states: list[dict[str, Any]] = []
        self.times: dict[str, float] = {}
        """When its watcher was first told of each status, in monotonic seconds."""
        self.stamps: list[float] = []
        """When its watcher was told of each state."""
        self.ended = 0.0

    def _fresh(self) -> Client:
        """A connection of its own: one that was idle for long may be closed in the moment in which it is used again."""
        return Client(self.client.url)

    def watch(self) -> None:
        """To its end, over everything that breaks the stream."""
        until = time.monotonic() + RUN_SECONDS
        while time.monotonic() < until:
            with suppress(ShoalError), self._fresh() as client:
                for state in client.run_events(self.run["id"], patience=RUN_SECONDS):
                    if not self.states or state["revision"] > self.states[-1]["revision"]:
                        self.states.append(state)
                        self.stamps.append(time.monotonic())
                        self.times.setdefault(state["status"], time.monotonic())
                break
            time.sleep(0.5)
        self.ended = time.monotonic()
        if self.states:
            self.run = self.states[-1]

    @property
    def seconds(self) -> float:
        return self.ended - self._began

    @property
    def age(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self._began

    def still_going(self) -> bool:
        """Asked of the service now, not of what the watcher was told last."""
        with self._fresh() as client:
            return client.run(self.run["id"])["status"] in GOING

    def state(self) -> str:
        """Where the run is, in words."""
        run = self.states[-1] if self.states else self.run
        return f"{run['status']} {run['generation']}"

    def told(self) -> str:
        return f"{self.run['status']}: {self.run['outcome']}"

    def digest(self) -> str:
        """Of the weights that answer now, where the run put them there."""
        if self.run["status"] in GOING or not self.run["promoted"]:
            return ""
        with self._fresh() as client:
            champion = client.adapter(self.adapter)["rollout"]["champion"]
            return str(client.version(self.adapter, champion)["digest"]) if champion == self.run["version"] else ""

    def duplicates(self) -> int:
        """States in the run's stream, and events of the run in its adapter's history, that are there more than once."""
        return sum(count - 1 for count in [*self._revisions().values(), *self._events().values()])

    def missing(self) -> int:
        """States that nobody was told, and what a promoting run must have left in its adapter's history and did not."""
        told = {state["revision"] for state in self.states}
        wanted = set(range(self.run["revision"] + 1))
        events = {"registered", "promoted"} if self.run["promoted"] else set()
        return len(wanted - told) + len(wanted - self._revisions().keys()) + len(events - self._events().keys())

    def _revisions(self) -> Counter[int]:
        """How often the stream, read from its beginning, has each state of the run."""
        with self._fresh() as client:  # as the stream comes: the client would leave out what is there twice
            return Counter(state["revision"] for state in client._stream(self.run["id"]))

    def _events(self) -> Counter[str]:
        with self._fresh() as client:
            history = client.history(self.adapter, limit=1000)
        return Counter(event["kind"] for event in history if event["by"] == self.run["id"])


def feedback_of(adapter: str, count: int) -> list[dict[str, Any]]:
    """Users who say what would have been right, of whatever the first expert would have said."""
    return [
        {
            "id": f"{adapter}-{number}",
            "adapter": adapter,
            "version": 1,
            "messages": [{"role": "user", "content": item.prompt}],
            "answer": "?",
            "correction": item.answer,
            "rater": f"user-{number % 50}",
            "conversation": f"talk-{number}",
        }
        for number, item in enumerate(items("blend", "traffic", count, seed=7))
    ]


def everybody(client: Client, **counts: int) -> None:
    """Wait until every kind of worker is there."""
    wanted = {"control": 1, "score": 1, "beat": 1} | counts
    until = time.monotonic() + BACK_SECONDS
    while True:
        with suppress(ShoalError):
            there = Counter(worker["kind"] for worker in client.workers())
            if all(there[kind] >= count for kind, count in wanted.items()):
                return
        if time.monotonic() > until:
            raise SystemExit(f"not all workers came back within {BACK_SECONDS:.0f} s: {wanted}")
        time.sleep(0.25)
