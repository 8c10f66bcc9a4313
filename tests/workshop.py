"""The parts of a run on a real Redis, the starter pack's real weights and the real scorer, with a list for a broker.

Messages are put on a list, so that a test can lose, repeat and reorder them. A test module imports the fixtures ``engine`` and
``workshop`` by name.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from registry.records import Feedback, Message, Run, now
from registry.registry import Registry
from registry.settings import RegistrySettings
from starter.pack import load_pack
from starter.skills import items
from swarm_worker.run import RunDriver
from swarm_worker.scoring.engine import AdapterFolder, answers_of
from swarm_worker.scoring.transformers import TransformersEngine
from swarm_worker.settings import WorkerSettings
from swarm_worker.slices import SliceScorer

BOT = "support-bot"


@dataclass
class Workshop:
    """The parts of a run with a list for a queue."""

    registry: Registry
    driver: RunDriver
    scorer: SliceScorer
    queue: list[dict[str, Any]] = field(default_factory=list)

    def work(self, *, limit: int = 1000, repeat: int = 1) -> None:
        """Score what is queued, each message ``repeat`` times, and move runs on when a step is complete."""
        while self.queue and limit:
            message = self.queue.pop(0)
            limit -= 1
            for _ in range(repeat):
                missing = self.scorer.score(**_named(message))
                if missing == 0:
                    for _ in range(repeat):
                        self.driver.advance(message["run"])
                elif missing is not None:
                    self.driver.send_due(message["run"], message["step"])

    def look_after_until_ended(self, run: Run, within: float = 120.0) -> Run:
        """As the tick does, again and again, and the workers behind it."""
        until = time.monotonic() + within
        while (current := self.registry.runs.get(run.id)).going:
            assert time.monotonic() < until, current
            self.driver.look_after()
            self.work()
            time.sleep(0.05)
        return current

    def finish(self, run: Run, **how: Any) -> Run:
        self.driver.advance(run.id)
        self.work(**how)
        return self.registry.runs.get(run.id)


def _named(message: dict[str, Any]) -> dict[str, Any]:
    return {"run_id" if key == "run" else key: value for key, value in message.items()}


@pytest.fixture(scope="session")
def engine() -> TransformersEngine:
    torch.set_num_threads(1)  # tests share their cores
    return TransformersEngine.load(load_pack().base)


@pytest.fixture
def workshop(registry_settings: RegistrySettings, engine: TransformersEngine) -> Iterator[Workshop]:
    pack = load_pack()
    registry = Registry.open(registry_settings.model_copy(update={"base": str(pack.base)}))
    for name, folder in pack.experts.items():
        registry.register(BOT, folder, by="test", label=name)
    registry.promote(BOT, 1, by="test")
    settings = WorkerSettings(lease_seconds=1.5, slice_deadline=1.1)
    queue: list[dict[str, Any]] = []
    driver = RunDriver(registry, settings, queue.append, lambda run_id, seconds: None)
    yield Workshop(registry, driver, SliceScorer(registry, settings, engine), queue)
    registry.close()


def give_feedback(workshop: Workshop, n: int, *, always_right: bool = False) -> None:
    """The champion's own answers, rated by the true ones; ``always_right``: users like whatever it says."""
    asked = items("blend", "traffic", n, seed=7)
    champion = AdapterFolder(workshop.registry.artifacts.fetch(workshop.registry.version(BOT, 1).digest))
    questions = [[{"role": "user", "content": item.prompt}] for item in asked]
    answers = answers_of(workshop.scorer.engine, champion, questions, 24)
    told = []
    for number, (item, answer) in enumerate(zip(asked, answers, strict=True)):
        right = always_right or item.is_right(answer)
        told.append(
            Feedback(
                id=f"fb-{number}",
                adapter=BOT,
                version=1,
                messages=(Message(role="user", content=item.prompt),),
                answer=answer,
                rating=1.0 if right else None,
                correction=None if right else item.answer,
                at=now(),
            )
        )
    workshop.registry.feedback.add_many(told)
