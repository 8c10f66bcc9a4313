"""What ``/metrics`` shows beside what was counted: this replica as it is, and the loop as the registry tells it.

One scrape of any replica shows the loop: workers keep no port of their own, for their work is in the registry's records
(``registry/loop_figures.py``), which outlive them. Every replica tells the same of the loop, so a query over several takes
``max``, never ``sum``. With Redis gone ``shoal_registry_up`` is 0 and the loop's figures are left out: old ones would look true.

Imported late: it imports prometheus_client, whose folder BentoML sets first.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from typing import Literal, get_args

from prometheus_client import ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from registry.errors import RegistryDown, ShoalError
from registry.loop_figures import CAUSES, DECISIONS, ENDINGS, MOVES, LoopFigures, LoopReader
from registry.records import GOING, Rollout, WorkerKind
from service.api.parts import Parts
from service.series import Labels, Times

log = logging.getLogger("shoal.service")

MOST_ADAPTERS = 256
"""Adapters that are shown by name, those that moved last; of the others only their number is."""
WORKER_KINDS: tuple[str, ...] = get_args(WorkerKind)
FRESH_SECONDS = 5.0
PATIENCE_SECONDS = 2.0  # Prometheus gives a scrape ten
STALE_SECONDS = 60.0  # a look that takes longer than that is not worth waiting for


@dataclass(frozen=True, slots=True)
class Family:
    """A metric's name, as it is asked for, what it says, and its labels."""

    kind: Literal["gauge", "counter", "histogram"]
    name: str
    help: str
    labels: tuple[str, ...] = ()


_REPLICA = (
    Family("counter", "shoal_requests_total", "Answers by the version that gave them.", ("version", "outcome")),
    Family("histogram", "shoal_request_seconds", "From request to the end of its answer.", ("version",)),
    Family("histogram", "shoal_time_to_first_token_seconds", "From request to the first streamed event.", ("version",)),
    Family("counter", "shoal_output_tokens_total", "Tokens of answers by the version that gave them.", ("version",)),
    Family("counter", "shoal_shadow_requests_total", "Questions to a trial on the side.", ("version", "outcome")),
    Family("gauge", "shoal_build_info", "Always 1; which release answers.", ("release",)),
    Family("gauge", "shoal_replica_ready", "1 while this replica takes requests."),
    Family("gauge", "shoal_registry_up", "1 while this replica reaches Redis; 0: it answers from what it last knew."),
    Family("gauge", "shoal_adapters", "Adapters that this replica serves."),
    Family("gauge", "shoal_champion_version", "The version that answers; 0: the adapter has none.", ("adapter",)),
    Family("gauge", "shoal_champion_info", "Always 1; to join an adapter with its champion.", ("adapter", "version")),
    Family(
        "gauge",
        "shoal_canary_share_ratio",
        "Share of the traffic that a version on trial gets.",
        ("adapter", "version", "shadow"),
    ),
    Family("gauge", "shoal_rollout_moved_timestamp_seconds", "When the adapter's rollout last moved.", ("adapter",)),
    Family("gauge", "shoal_versions_loaded", "Versions that the engine holds, ready to answer."),
    Family("gauge", "shoal_versions_unservable", "Champions and other pinned versions that could not be loaded."),
    Family(
        "gauge",
        "shoal_versions_without_place",
        "Champions and other pinned versions that have no place of their own in the engine.",
    ),
    Family("gauge", "shoal_rollouts_unreadable", "Adapters whose rollout this replica cannot follow."),
    Family("gauge", "shoal_requests_in_flight", "Answers that are being made now.", ("version",)),
    Family("gauge", "shoal_feedback_spooled", "Feedback items on this replica's disk, waiting for Redis."),
    Family("gauge", "shoal_feedback_spool_bytes", "What those items take on disk."),
    Family("counter", "shoal_interactions_dropped_total", "Answers that could not be recorded, by why.", ("reason",)),
    Family(
        "counter",
        "shoal_feedback_refused_total",
        "Feedback that waited on disk and was refused after; it is kept there.",
    ),
)
_LOOP = (
    Family("gauge", "shoal_replicas", "Replicas that are alive."),
    Family("gauge", "shoal_registry_behind", "Adapters whose rollout in Redis is older than one that was known."),
    Family("gauge", "shoal_workers", "Workers that are alive.", ("kind",)),
    Family("gauge", "shoal_workers_busy", "Workers that are at a slice, or at a move of a run.", ("kind",)),
    Family("gauge", "shoal_workers_troubled", "Workers that cannot work; `shoal workers` says why.", ("kind",)),
    Family("gauge", "shoal_tick_timestamp_seconds", "When trials and runs were last looked after."),
    Family("gauge", "shoal_queue_messages", "Messages that no worker has taken yet.", ("queue",)),
    Family("gauge", "shoal_queue_unacknowledged", "Messages that a worker has taken and not done."),
    Family("gauge", "shoal_runs", "Runs that are going, by how far they are.", ("adapter", "status")),
    Family("counter", "shoal_runs_ended_total", "Runs that ended, by how.", ("adapter", "outcome")),
    Family("gauge", "shoal_run_generation", "The generation of the run that is going.", ("adapter",)),
    Family("gauge", "shoal_run_generations_max", "The most generations of the run that is going.", ("adapter",)),
    Family("gauge", "shoal_run_best_utility", "The best utility that the run that is going has found.", ("adapter",)),
    Family("gauge", "shoal_run_moved_timestamp_seconds", "When the run that is going last moved on.", ("adapter",)),
    Family("counter", "shoal_run_generations_total", "Generations of all runs.", ("adapter",)),
    Family("counter", "shoal_run_item_generations_total", "Items that were scored for searches.", ("adapter",)),
    Family("counter", "shoal_run_scoring_seconds_total", "What scoring workers spent on searches.", ("adapter",)),
    Family("counter", "shoal_gate_decisions_total", "Finalists at the gate: passed or failed.", ("adapter", "outcome")),
    Family(
        "counter",
        "shoal_rollout_moves_total",
        "Moves of rollouts, by what they did and who made them.",
        ("adapter", "kind", "cause"),
    ),
    Family("gauge", "shoal_feedback_items", "Feedback items in the registry.", ("adapter",)),
    Family("gauge", "shoal_feedback_unused_items", "Those that came since the last run was begun.", ("adapter",)),
    Family("gauge", "shoal_rating_mean", "Mean rating of a loaded version, over all replicas.", ("version",)),
    Family("counter", "shoal_ratings_total", "Ratings of a loaded version, over all replicas.", ("version",)),
)
FAMILIES = {family.name: family for family in (*_REPLICA, *_LOOP)}


class Exposition:
    """Tells one replica and the loop in Prometheus's text format. ``text`` waits for Redis ``PATIENCE_SECONDS`` at most."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._reader = LoopReader(parts.registry)
        self._looking: asyncio.Task[LoopFigures | None] | None = None
        self._looked = float("-inf")
        self._figures: LoopFigures | None = None
        self._process = ProcessCollector(registry=None)

    async def text(self) -> str:
        """All families, each with its help; those of one that says nothing now have no samples."""
        loop = None if self._parts.replica.registry_down else await self._look()
        spooled = await asyncio.to_thread(self._spooled)
        replica = [*_counted(self._parts.tally.labels), *self._replica(), *spooled]
        sheet = _Sheet(
            [*replica, *(_loop(loop) if loop else ())], _REPLICA if loop is None else tuple(FAMILIES.values())
        )
        return generate_latest(_Collected([*sheet.families(), *self._process.collect()])).decode()  # type: ignore[arg-type]

    async def _look(self) -> LoopFigures | None:
        """The loop, at most ``FRESH_SECONDS`` old; one that is on its way for longer is not waited for."""
        if self._looking is None and time.monotonic() - self._looked > FRESH_SECONDS:
            self._looking = asyncio.create_task(asyncio.to_thread(self._read))
        if self._looking is not None:
            done, _ = await asyncio.wait({self._looking}, timeout=PATIENCE_SECONDS)
            if done and (looking := self._looking) is not None:
                self._looking, self._looked, self._figures = None, time.monotonic(), looking.result()
        return self._figures if time.monotonic() - self._looked < STALE_SECONDS else None

    def _read(self) -> LoopFigures | None:
        try:
            return self._reader.read()
        except RegistryDown:
            return None
        except (ShoalError, ValueError) as error:  # a record of a newer release, in the middle of an upgrade
            log.warning("the loop's figures cannot be read: %s", error)
            return None

    def _replica(self) -> Iterator[_Sample]:
        parts, replica = self._parts, self._parts.replica
        yield "shoal_build_info", (_release(),), 1
        yield "shoal_replica_ready", (), replica.ready
        yield "shoal_registry_up", (), not replica.registry_down
        rollouts = replica.rollouts
        yield "shoal_adapters", (), len(rollouts)
        for name, rollout in _shown(rollouts):
            yield "shoal_champion_version", (name,), rollout.champion or 0
            yield "shoal_rollout_moved_timestamp_seconds", (name,), rollout.moved_at.timestamp()
            if rollout.champion is not None:
                yield "shoal_champion_info", (name, f"{name}@{rollout.champion}"), 1
            if rollout.challenger is not None:
                labels = (name, f"{name}@{rollout.challenger}", str(rollout.shadow).lower())
                yield "shoal_canary_share_ratio", labels, rollout.challenger_share
        yield "shoal_versions_loaded", (), len(replica.loaded)
        yield "shoal_versions_unservable", (), len(replica.unservable)
        yield "shoal_versions_without_place", (), len(replica.without_place)
        yield "shoal_rollouts_unreadable", (), len(replica.problems)
        for name, count in replica.leases.items():
            yield "shoal_requests_in_flight", (name,), count
        for reason, count in parts.recorder.drops.items():
            yield "shoal_interactions_dropped_total", (reason,), count

    def _spooled(self) -> list[_Sample]:
        """Read from the disk."""
        spool = self._parts.spool
        return [
            ("shoal_feedback_spooled", (), spool.waiting),
            ("shoal_feedback_spool_bytes", (), spool.size),
            ("shoal_feedback_refused_total", (), spool.refused),
        ]


_Sample = tuple[str, tuple[str, ...], float | Times]


def _counted(labels: Labels) -> Iterator[_Sample]:
    for version_name, series in labels.all().items():
        for outcome, count in series.requests.items():
            yield "shoal_requests_total", (version_name, outcome), count
        for outcome, count in series.shadow.items():
            yield "shoal_shadow_requests_total", (version_name, outcome), count
        if series.requests:  # and not a trial in the shadow alone, which answered nobody
            yield "shoal_request_seconds", (version_name,), series.seconds
            yield "shoal_output_tokens_total", (version_name,), series.tokens
        if series.first_seconds.buckets[-1][1]:
            yield "shoal_time_to_first_token_seconds", (version_name,), series.first_seconds


def _loop(loop: LoopFigures) -> Iterator[_Sample]:
    shown = {name for name, _ in _shown(loop.rollouts)}
    yield "shoal_replicas", (), loop.replicas
    yield "shoal_registry_behind", (), loop.behind
    for kind in WORKER_KINDS:
        workers = [worker for worker in loop.workers if worker.kind == kind]
        yield "shoal_workers", (kind,), len(workers)
        yield "shoal_workers_busy", (kind,), sum(worker.run is not None for worker in workers)
        yield "shoal_workers_troubled", (kind,), sum(bool(worker.trouble) for worker in workers)
    if loop.ticked_at is not None:
        yield "shoal_tick_timestamp_seconds", (), loop.ticked_at
    for queue, waiting in loop.queues.items():
        yield "shoal_queue_messages", (queue,), waiting
    yield "shoal_queue_unacknowledged", (), loop.unacknowledged
    for name in shown:
        yield from _adapter(name, loop)
    for version_name, ratings in loop.ratings.items():
        if version_name.rpartition("@")[0] in shown:
            yield "shoal_ratings_total", (version_name,), ratings.count
            if ratings.mean is not None:
                yield "shoal_rating_mean", (version_name,), ratings.mean


def _adapter(name: str, loop: LoopFigures) -> Iterator[_Sample]:
    run, moved_at = loop.going.get(name, (None, 0.0))
    for status in sorted(GOING):
        yield "shoal_runs", (name, status), run is not None and run.status == status
    if run is not None:
        yield "shoal_run_generation", (name,), run.generation
        yield "shoal_run_generations_max", (name,), run.max_generations
        yield "shoal_run_moved_timestamp_seconds", (name,), moved_at
        if run.best_utility is not None:
            yield "shoal_run_best_utility", (name,), run.best_utility
    yield "shoal_run_generations_total", (name,), loop.generations[name]
    yield "shoal_run_item_generations_total", (name,), loop.item_generations[name]
    yield "shoal_run_scoring_seconds_total", (name,), loop.scoring_seconds[name]
    # Zeros, too: of a count that is first seen as 1 nobody can tell that it grew.
    for outcome in ENDINGS:
        yield "shoal_runs_ended_total", (name, outcome), loop.ended[name, outcome]
    for outcome in DECISIONS:
        yield "shoal_gate_decisions_total", (name, outcome), loop.decisions[name, outcome]
    for kind, cause in product(MOVES, CAUSES):
        yield "shoal_rollout_moves_total", (name, kind, cause), loop.moves[name, kind, cause]
    yield "shoal_feedback_items", (name,), loop.feedback.get(name, 0)
    yield "shoal_feedback_unused_items", (name,), loop.unused.get(name, 0)


_MADE = {"gauge": GaugeMetricFamily, "counter": CounterMetricFamily, "histogram": HistogramMetricFamily}


class _Sheet:
    """Samples, sorted into their families."""

    def __init__(self, samples: Iterable[_Sample], families: tuple[Family, ...]) -> None:
        self._families: dict[str, Metric] = {}
        for family in families:
            self._families[family.name] = _MADE[family.kind](family.name, family.help, labels=family.labels)
        for name, labels, value in samples:
            told = (value.buckets, value.total) if isinstance(value, Times) else (value,)
            self._families[name].add_metric(labels, *told)  # type: ignore[attr-defined]  # all kinds have it

    def families(self) -> Iterable[Metric]:
        return self._families.values()


class _Collected:
    """What ``generate_latest`` reads: something that has been collected already."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def _shown(rollouts: dict[str, Rollout]) -> list[tuple[str, Rollout]]:
    if len(rollouts) <= MOST_ADAPTERS:
        return sorted(rollouts.items())
    return sorted(rollouts.items(), key=lambda named: named[1].moved_at, reverse=True)[:MOST_ADAPTERS]


def _release() -> str:
    try:
        return version("shoal")
    except PackageNotFoundError:  # a checkout that is not installed
        return "unknown"
