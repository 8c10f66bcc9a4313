"""One way of running the service through the simulated months: the loop, the loop without one of its parts, or no loop.

What is real: the starter pack's base and experts answer; snapshot, search, cut, confirmation, gate, sequential test and the
rules of a rollout are the loop's own. What is not: processes, HTTP, and the time between two weeks.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bench.month_answers import Answers
from bench.month_search import find
from bench.month_searches import Searches
from bench.month_trial import Trial
from bench.month_world import MISTAKE, POISONED, WEEKS, Request, flood, said
from registry import rollout as rules
from registry.records import Feedback, Message, Rollout
from registry.snapshot_filter import SnapshotFilter
from service.routing import choose
from starter.pack import Pack

ADAPTER = "support-bot"
BEGINS = datetime(2026, 1, 5, tzinfo=UTC)
CHUNK = 100
"""Requests between two looks at a trial: what a tick of Celery beat sees."""
REMEMBERED = 3
"""Weeks of feedback that a snapshot is made of."""


@dataclass(frozen=True)
class Size:
    """Weeks of the story, requests in each, generations of each search, and the feedback that a run waits for
    (``adapt_min_new``)."""

    weeks: int = WEEKS
    per_week: int = 2000
    generations: int = 12
    new_feedback: int = 1000


@dataclass(frozen=True)
class Way:
    """Which parts of the loop are there. ``confirms``: the gate decides on items that the search has not seen."""

    name: str
    adapts: bool = True
    confirms: bool = True
    gates: bool = True
    canary: bool = True


OFF = Way("off", adapts=False)
LOOP = Way("loop")
NAIVE = (
    Way("no_confirm", confirms=False),
    Way("no_gate", gates=False),
    Way("no_canary", canary=False),
    Way("nothing", confirms=False, gates=False, canary=False),
)


@dataclass
class Week:
    """What users got: how many answers, how many of them right, and what moved."""

    requests: int = 0
    right: int = 0
    moves: list[str] = field(default_factory=list)

    @property
    def utility(self) -> float:
        return self.right / self.requests


class Arm:
    """Plays one way. ``folders``: version number -> PEFT folder, as a registry would hold them."""

    def __init__(
        self,
        way: Way,
        pack: Pack,
        answers: Answers,
        searches: Searches,
        bad: Path,
        seed: int,
        size: Size,
        scratch: Path,
    ) -> None:
        self.searches, self.now = searches, BEGINS
        self.way, self.answers, self.seed, self.size, self.scratch = way, answers, seed, size, scratch
        self.folders = dict(enumerate(pack.experts.values(), start=1))
        self.experts = list(self.folders)
        self.bad = bad
        self.rollout = rules.promote(Rollout(adapter=ADAPTER, revision=0, moved_at=BEGINS), 1, at=BEGINS)
        self.feedback: list[Feedback] = []
        self.trial: Trial | None = None
        self.runs = self.looks = 0
        self.mixes: dict[int, tuple[float, ...]] = {}
        self._seen = 0
        self._mistake: int | None = None
        self._ids = itertools.count()

    def play(self, story: Sequence[Sequence[Request]]) -> list[Week]:
        """Every week: users ask and rate; between two ticks the trial is looked at, and once there is none a run may begin."""
        weeks = []
        for number, requests in enumerate(story):
            week = Week()
            if number == MISTAKE and self.way.adapts:
                self._mistake = self._register(self.bad, expert=True)
            for start in range(0, len(requests), CHUNK):
                self.now = BEGINS + timedelta(weeks=number + start / len(requests))
                self._tick(week)
                self._serve(week, requests[start : start + CHUNK])
            if number == POISONED:
                self._keep(flood(requests, self.seed), version=self.rollout.champion)
            weeks.append(week)
        return weeks

    def _tick(self, week: Week) -> None:
        self._look(week)
        if self.trial is None and self._mistake is not None:
            week.moves.append("released by mistake")
            self._release(week, self._mistake)
            self._mistake = None
        elif self.trial is None and self.way.adapts:
            self._adapt(week)

    # Serving ----------------------------------------------------------------------------------------------------------

    def _serve(self, week: Week, requests: Sequence[Request]) -> None:
        """Every conversation is routed anew, as the service routes it; each user says what they think of the answer."""
        routed: dict[int, list[Request]] = {}
        for request in requests:
            version = choose(self.rollout, "rollout", f"conversation-{request.number}")
            routed.setdefault(version or 1, []).append(request)
        for version, asked in routed.items():
            for request, answer in zip(asked, self.answers.of(self.folders[version], asked), strict=True):
                week.requests += 1
                week.right += request.item.is_right(answer)
                if (told := said(request, answer, self.seed)) is not None:
                    self._keep([(request, told | {"answer": answer})], version)

    def _keep(self, told: Sequence[tuple[Request, dict[str, Any]]], version: int | None) -> None:
        for request, fields in told:
            at = self.now + timedelta(milliseconds=request.number)
            messages = tuple(Message(**message) for message in request.messages)
            self.feedback.append(
                Feedback(id=f"f{next(self._ids)}", adapter=ADAPTER, version=version, messages=messages, at=at, **fields)
            )
            if self.trial is not None and version is not None and fields.get("rating") is not None:
                self.trial.rated(version, fields["rater"], fields["rating"])

    # The loop ---------------------------------------------------------------------------------------------------------

    def _look(self, week: Week) -> None:
        """What the tick does with a trial: go on, a bigger share, the champion's place, or the end."""
        if self.trial is None:
            return
        verdict, version = self.trial.verdict(), self.trial.version
        if verdict.kind == "go_on" or (verdict.kind == "better" and self.trial.share < self.trial.policy.steps[-1]):
            if self.trial.rise():
                self.rollout = rules.start_canary(self.rollout, version, self.trial.share, at=self.rollout.moved_at)
            return
        self.trial = None
        if verdict.kind == "better":
            self._promote(week, version)
        else:
            self.rollout = rules.end_canary(self.rollout, at=self.rollout.moved_at)
            word = "kept back" if verdict.kind == "worse" else "undecided"
            week.moves.append(f"{word} {version}")

    def _adapt(self, week: Week) -> None:
        """A run, if there is enough new feedback: what passes the gate goes on trial, or straight to the users."""
        if len(self.feedback) - self._seen < self.size.new_feedback:
            return
        self._seen = len(self.feedback)
        self.runs += 1
        champion = self.rollout.champion or 1
        found = find(
            self.answers.engine,
            self.searches,
            [self.folders[expert] for expert in self.experts],
            self.folders[champion],
            self.feedback,
            self.scratch / f"{self.way.name}-{self.runs}",
            chosen=SnapshotFilter(since=self.now - timedelta(weeks=REMEMBERED)),
            start=self.mixes.get(champion),
            confirms=self.way.confirms,
            look=self.looks + 1,
            generations=self.size.generations,
            seed=self.seed * 1000 + self.runs,
            at=self.now + timedelta(minutes=1),
        )
        if found is None:
            return
        self.looks += found.decision.tested
        if self.way.gates and not found.decision.passed:
            week.moves.append("refused by the gate")
            return
        version = self._register(found.folder)
        self.mixes[version] = found.coefficients
        self._release(week, version)

    def _release(self, week: Week, version: int) -> None:
        """The way a version reaches the users here: on trial, or at once."""
        if self.way.canary:
            self.trial = Trial(version, self.rollout.champion or 1)
            self.rollout = rules.start_canary(self.rollout, version, self.trial.share, at=self.rollout.moved_at)
            week.moves.append(f"on trial {version}")
        else:
            self._promote(week, version)

    def _promote(self, week: Week, version: int) -> None:
        self.rollout = rules.promote(self.rollout, version, at=self.rollout.moved_at, by_itself=True)
        self.looks = 0
        week.moves.append(f"promoted {version}")

    def _register(self, folder: Path, *, expert: bool = False) -> int:
        version = len(self.folders) + 1
        self.folders[version] = folder
        if expert:
            self.experts.append(version)
        return version
