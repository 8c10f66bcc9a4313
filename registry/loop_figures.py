"""The loop in numbers: what runs, gates and moves came to, added up from the records themselves.

Workers publish nothing: a run's record and an adapter's history say it all, survive every process, and are there for whoever
looks. So a service can show the loop beside itself, and nobody has to find and ask every worker. A look reads what is new
since the last one: runs that have ended, and events that are written, never change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

from registry.figures import readable
from registry.keys import Keys
from registry.queues import CONTROL, SCORE, queue_key, unacknowledged_key
from registry.ratings import RATING_SUMS
from registry.records import Event, Rollout, Run, Worker
from registry.registry import Registry

T = TypeVar("T")
_PAGE = 500
_SKEW_SECONDS = 600.0  # by how much the clocks of machines that begin runs may differ
MOVES = ("promoted", "rolled_back", "canary_started", "canary_ended")
"""The events that change who answers, and are counted."""
CAUSES = ("operator", "run", "canary")
"""Who may have made them: a person, a run whose finalist passed the gate, a trial that was decided by itself."""
ENDINGS = ("promoted", "done", "stopped", "failed", "cancelled")
DECISIONS = ("passed", "failed")
_SEARCHED = ("confirming", "promoting", "canary", "done", "stopped")  # in records of before ``searched`` was kept


@dataclass
class Ratings:
    """How a version was rated, over all replicas and restarts; ``mean`` None: nobody has rated it."""

    mean: float | None
    count: int


@dataclass
class LoopFigures:
    """What a look found. Counts by adapter, and by what their names say after it.

    ``going``: the runs that have not ended, with the second of their last move. ``feedback``: items kept; ``unused``: those
    that came after the adapter's last run was begun. ``unacknowledged``: messages that a worker has and has not done.
    ``ticked_at``: when a control worker last began to look after everything.
    """

    replicas: int = 0
    workers: tuple[Worker, ...] = ()
    behind: int = 0
    rollouts: dict[str, Rollout] = field(default_factory=dict)
    going: dict[str, tuple[Run, float]] = field(default_factory=dict)
    ended: Counter[tuple[str, str]] = field(default_factory=Counter)  # adapter, ending
    decisions: Counter[tuple[str, str]] = field(default_factory=Counter)  # adapter, outcome
    moves: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # adapter, kind, cause
    generations: Counter[str] = field(default_factory=Counter)
    item_generations: Counter[str] = field(default_factory=Counter)
    scoring_seconds: Counter[str] = field(default_factory=Counter)
    feedback: dict[str, int] = field(default_factory=dict)
    unused: dict[str, int] = field(default_factory=dict)
    ratings: dict[str, Ratings] = field(default_factory=dict)  # by version: support-bot@7
    queues: dict[str, int] = field(default_factory=dict)
    unacknowledged: int = 0
    ticked_at: float | None = None


class LoopReader:
    """Looks, again and again, at one registry. Not safe for threads: one look at a time."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._redis = registry.redis
        self._keys = Keys(registry.settings.namespace)
        self._forget()

    def read(self) -> LoopFigures:
        """A look. ``RegistryDown`` where Redis cannot be asked; what was read up to there is kept for the next look."""
        registry = self._registry
        if self._redis.zcard(self._keys.runs) < len(self._ended):
            self._forget()  # another registry than it was: restored, or emptied
        adapters = {adapter.name: adapter for adapter in registry.adapters()}
        self._read_moves({name: adapter.rollout.revision for name, adapter in adapters.items()})
        going = self._read_runs()
        found = LoopFigures(
            replicas=len(registry.replicas.live()),
            workers=tuple(registry.workers.live()),
            behind=len(registry.guard.behind()),
            ticked_at=registry.workers.ticked_at(),
            rollouts={name: adapter.rollout for name, adapter in adapters.items()},
            ended=Counter(self._endings),
            decisions=Counter(self._decisions),
            moves=Counter(self._moves),
            generations=Counter(self._generations),
            item_generations=Counter(self._items),
            scoring_seconds=Counter(self._seconds),
            feedback=self._counts(adapters),
        )
        for run in going:
            found.going[run.spec.adapter] = (run, self._moved_at(run))
            _add_work(run, found.generations, found.item_generations, found.scoring_seconds)
        for name, count in found.feedback.items():
            found.unused[name] = max(0, count - self._seen.get(name, (0.0, 0))[1])
        self._read_ratings(found)
        self._read_queues(found)
        return found

    # ------------------------------------------------------------------------------------------------------------------

    def _forget(self) -> None:
        self._ended: set[str] = set()
        self._latest = 0.0  # when the latest run that was seen began
        self._seen: dict[
            str, tuple[float, int]
        ] = {}  # adapter -> when its last run began, and how much feedback it saw
        self._places: dict[str, tuple[int, int]] = {}  # adapter -> the revision and the last event that were read
        self._endings: Counter[tuple[str, str]] = Counter()
        self._decisions: Counter[tuple[str, str]] = Counter()
        self._moves: Counter[tuple[str, str, str]] = Counter()
        self._generations: Counter[str] = Counter()
        self._items: Counter[str] = Counter()
        self._seconds: Counter[str] = Counter()

    def _read_runs(self) -> list[Run]:
        """Take in what has ended since the last look; the others."""
        ids: Any = self._redis.zrangebyscore(self._keys.runs, self._latest - _SKEW_SECONDS, "+inf")
        going, oldest = [], float("inf")
        for page in _pages(run_id for run_id in ids if run_id not in self._ended):
            for text in self._redis.mget([self._keys.run(run_id) for run_id in page]):
                if not text:
                    continue
                run = Run.model_validate_json(text)
                began = run.created_at.timestamp()
                self._seen[run.spec.adapter] = max(
                    self._seen.get(run.spec.adapter, (0.0, 0)), (began, run.feedback_seen)
                )
                if run.going:
                    going.append(run)
                    oldest = min(oldest, began)
                else:
                    self._take(run)
                self._latest = max(self._latest, began)
        self._latest = min(self._latest, oldest)  # one that is going is looked at again
        return going

    def _take(self, run: Run) -> None:
        self._ended.add(run.id)
        self._endings[run.spec.adapter, "promoted" if run.promoted else run.status] += 1
        if run.decision is not None and "passed" in run.decision:
            self._decisions[run.spec.adapter, "passed" if run.decision["passed"] else "failed"] += 1
        _add_work(run, self._generations, self._items, self._seconds)

    def _read_moves(self, revisions: dict[str, int]) -> None:
        """Take in the events of adapters whose revision moved."""
        moved = [name for name, revision in revisions.items() if self._places.get(name, (-1, 0))[0] != revision]
        for page in _pages(moved):
            with self._redis.pipeline(transaction=False) as pipe:
                for name in page:
                    pipe.xrange(self._keys.history(name), min=f"({self._places.get(name, (0, 0))[1]}-0")
                answers = pipe.execute()
            for name, entries in zip(page, answers, strict=True):
                last = self._places.get(name, (0, 0))[1]
                for place, fields in entries:
                    event = Event.model_validate_json(fields["event"])
                    if event.kind in MOVES:
                        self._moves[name, event.kind, cause_of(event)] += 1
                    last = int(place.partition("-")[0])
                self._places[name] = (revisions[name], last)

    def _moved_at(self, run: Run) -> float:
        """When a run was last saved, in seconds since 1970: its events carry Redis's clock."""
        last: Any = self._redis.xrevrange(self._keys.run(run.id, "events"), count=1)
        return int(last[0][0].partition("-")[0]) / 1000 if last else run.created_at.timestamp()

    def _counts(self, names: Iterable[str]) -> dict[str, int]:
        counts: dict[str, int] = {}
        for page in _pages(names):
            with self._redis.pipeline(transaction=False) as pipe:
                for name in page:
                    pipe.hlen(self._keys.feedback(name))
                counts |= dict(zip(page, pipe.execute(), strict=True))
        return counts

    def _read_ratings(self, found: LoopFigures) -> None:
        """Of the versions that are kept loaded: champion, challenger, the way back."""
        for page in _pages(found.rollouts):
            with self._redis.pipeline(transaction=False) as pipe:
                for name in page:
                    wanted = found.rollouts[name].pinned or (0,)
                    pipe.hmget(self._keys.figures(name), [f"{n}:{part}" for n in wanted for part in RATING_SUMS])
                answers = pipe.execute()
            for name, sums in zip(page, answers, strict=True):
                for number, held in zip(found.rollouts[name].pinned, _pages(sums, len(RATING_SUMS)), strict=False):
                    told = readable({part: float(sum_ or 0) for part, sum_ in zip(RATING_SUMS, held, strict=True)})
                    found.ratings[f"{name}@{number}"] = Ratings(told["rating_mean"], told["ratings"])

    def _read_queues(self, found: LoopFigures) -> None:
        namespace = self._keys.namespace
        with self._redis.pipeline(transaction=False) as pipe:
            for queue in (CONTROL, SCORE):
                pipe.llen(queue_key(namespace, queue))
            pipe.hlen(unacknowledged_key(namespace))
            control, score, found.unacknowledged = pipe.execute()
        found.queues = {CONTROL: control, SCORE: score}


def cause_of(event: Event) -> str:
    """Who moved a rollout, as one of ``CAUSES``."""
    if event.by.startswith("run-"):
        return "run"
    return "canary" if event.by == "canary" else "operator"


def _add_work(run: Run, generations: Counter[str], items: Counter[str], seconds: Counter[str]) -> None:
    adapter = run.spec.adapter
    over = run.searched or run.decision is not None or run.status in _SEARCHED  # the last generation, as well
    generations[adapter] += run.generation + over
    items[adapter] += run.item_generations
    seconds[adapter] += run.search_seconds  # type: ignore[assignment]  # a Counter adds up floats as well


def _pages(of: Iterable[T], size: int = _PAGE) -> Iterator[list[T]]:
    rest = iter(of)
    while page := list(islice(rest, size)):
        yield page
