"""Runs: the record of each adaptation, the optimiser's state beside it, and the slices that workers score.

A run moves only from the revision the mover saw (``save``), so two movers make one move. A step (one generation, or the
confirmation) is a set of slices; a slice is claimed with a fencing token and a lease that its worker renews, and is reported
once: a message may be delivered any number of times, to any number of workers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, cast

import redis

from registry.errors import Conflict, RunGoing, RunUnknown
from registry.keys import Keys
from registry.lua import script
from registry.record import SCHEMA, check_schema
from registry.records import Run, now

KEEP_SECONDS = 7 * 24 * 3600
"""How long the slices of a finished step are kept."""
FORGET_SECONDS = 20.0
"""How long a run that was seen to have ended is taken for ended: a Redis that lost its last moments knows it as going."""


class Runs:
    """Where runs are kept.

    Guarantees: one run an adapter is going at a time; a run moves only from the revision the caller saw, and every move is one
    event; a slice is reported once, by the latest holder of its fencing token.
    """

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self._redis = client
        self._keys = keys
        self.on_move: Callable[[Run], None] = lambda run: None
        """Told of every run that was moved on here, as it is now: for logs and traces. It should not raise."""
        self._ended: set[str] = set()  # latest runs of their adapters that were seen to have ended: they stay so
        self._seen_ended = time.monotonic()
        self._create, self._save = script(client, "run_create"), script(client, "run_save")
        self._open, self._due = script(client, "step_open"), script(client, "slices_due")
        self._claim, self._renew = script(client, "slice_claim"), script(client, "slice_renew")
        self._report = script(client, "slice_report")

    # Records ----------------------------------------------------------------------------------------------------------

    def create(self, run: Run, *, after: str | None = None) -> Run:
        """Begin ``run``; RunGoing when another run of its adapter has not ended.

        ``after``: the id of the adapter's latest run that the caller decided upon, "" for none. Where another began since it is
        RunGoing, or Conflict if that has ended: of all who decided upon the same latest run, one begins the next.
        """
        # The record first: a place that is taken always names a run that can be read, ticked and cancelled.
        self._write(run, expected=-1)
        keys = [self._keys.going(run.spec.adapter), self._keys.of(run.spec.adapter, "runs"), self._keys.runs]
        score = run.created_at.timestamp()
        ended = after or ""
        while (holder := str(self._create(keys=keys, args=[run.id, ended, score]))) != run.id:
            rival = self.find(holder)
            if after is not None or (rival is not None and rival.going):
                self._redis.delete(*(self._key(run.id, part) for part in ("record", "revision", "events")))
                if rival is None or rival.going:
                    raise RunGoing(run.spec.adapter, holder)
                raise Conflict(
                    f"Run {holder} of '{run.spec.adapter}' began and ended meanwhile: decide again.", run_id=holder
                )
            ended = holder  # it ended: the place is free
        return run

    def find(self, run_id: str) -> Run | None:
        text = self._redis.get(self._key(run_id, "record"))
        return Run.model_validate_json(text) if text else None

    def latest(self, adapter: str) -> Run | None:
        """The run that began last, going or ended."""
        holder = self._redis.get(self._keys.going(adapter))
        return self.find(str(holder)) if holder else None

    def get(self, run_id: str) -> Run:
        run = self.find(run_id)
        if run is None:
            raise RunUnknown(run_id)
        return run

    def going(self) -> list[Run]:
        """Every run that has not ended, however old: an adapter's place names its latest, and those that ended are
        remembered here for a while, so that a look reads the others alone."""
        if time.monotonic() - self._seen_ended > FORGET_SECONDS:
            self._ended, self._seen_ended = set(), time.monotonic()
        places: Any = self._redis.sort(self._keys.adapters, by="nosort", get=[self._keys.of("*", "run")])
        ids = sorted({place for place in places if place} - self._ended)
        found = self._found(ids)
        self._ended |= {run.id for run in found if not run.going}
        return [run for run in found if run.going]

    def save(self, run: Run, search: dict[str, Any] | None = None) -> Run | None:
        """Move the run on; ``run.revision`` is the one the caller read. None: somebody else moved it first."""
        moved = run.model_copy(update={"revision": run.revision + 1})
        if not self._write(moved, expected=run.revision, search=search):
            return None
        self.on_move(moved)
        return moved

    def search_state(self, run_id: str) -> dict[str, Any] | None:
        """The optimiser's state as it was saved last. ``RecordNewer``."""
        text = self._redis.get(self._key(run_id, "search"))
        return _read("search state", text) if text else None

    def stumbling(self, run_id: str, revision: int) -> float:
        """Says that the run could not be moved on from this revision; for how many seconds it has been so."""
        key, at = self._key(run_id, "stumbled", str(revision)), time.time()
        self._redis.set(key, at, nx=True, ex=KEEP_SECONDS)
        return at - float(cast("str | None", self._redis.get(key)) or at)

    def steady(self, run_id: str, revision: int) -> None:
        """Says that it can."""
        self._redis.delete(self._key(run_id, "stumbled", str(revision)))

    def cancel(self, run_id: str, *, outcome: str) -> Run:
        """End a going run; one that ended stays as it ended, and one that is moving the rollout this moment ends as that ends."""
        while True:
            run = self.get(run_id)
            if not run.going or run.moving:
                return run
            ended = run.model_copy(update={"status": "cancelled", "outcome": outcome, "finished_at": now()})
            if (saved := self.save(ended)) is not None:
                return saved

    def changes_after(self, run_id: str, place: str) -> tuple[str, list[Run]]:
        """The run's states after ``place`` ("0": from its first), and the place to ask from next. Never waits."""
        answer: Any = self._redis.xrange(
            self._key(run_id, "events"), min=f"({place}" if place != "0" else "-", count=200
        )
        states = [Run.model_validate_json(fields["run"]) for _, fields in answer]
        return (answer[-1][0] if answer else place), states

    def latest_states(self, run_id: str, limit: int) -> list[tuple[int, Run]]:
        """The run's last states, newest first, each with when it was saved: nanoseconds since 1970, by Redis's clock."""
        answer: Any = self._redis.xrevrange(self._key(run_id, "events"), count=limit)
        return [
            (int(place.partition("-")[0]) * 1_000_000, Run.model_validate_json(fields["run"]))
            for place, fields in answer
        ]

    # Slices -----------------------------------------------------------------------------------------------------------

    def open_step(self, run_id: str, step: str, messages: Sequence[dict[str, Any]]) -> bool:
        """Write the messages of a step, one a slice, all at once; opening it again changes nothing and answers False."""
        texts = [json.dumps(message) for message in messages]
        return bool(self._open(keys=[self._key(run_id, step, "messages")], args=[KEEP_SECONDS, *texts]))

    def is_open(self, run_id: str, step: str) -> bool:
        return bool(self._redis.exists(self._key(run_id, step, "messages")))

    def due(self, run_id: str, step: str, *, seconds: float, limit: int) -> list[dict[str, Any]]:
        """Messages to send now, in the order of the slices: those that nobody reported or holds, not sent yet or longer ago
        than ``seconds``, until ``limit`` slices are under way. They count as sent from now on."""
        keys = self._slice_keys(run_id, step, "messages", "reports", "sent", "leases")
        texts: Any = self._due(keys=keys, args=[int(seconds * 1000), limit, KEEP_SECONDS])
        return [json.loads(text) for text in texts]

    def claim(self, run_id: str, step: str, index: int, *, lease_seconds: float) -> int | None:
        """Take a slice: a fencing token, or None where it is reported or somebody else is at it."""
        keys = self._slice_keys(run_id, step, "fences", "reports", "leases")
        return int(self._claim(keys=keys, args=[index, int(lease_seconds * 1000), KEEP_SECONDS])) or None

    def renew(self, run_id: str, step: str, index: int, fence: int, *, lease_seconds: float) -> bool:
        """Keep a slice for so long from now on; False where it was taken over, or is reported."""
        keys = self._slice_keys(run_id, step, "fences", "reports", "leases")
        return bool(self._renew(keys=keys, args=[index, fence, int(lease_seconds * 1000)]))

    def put_back(self, run_id: str, step: str, index: int, fence: int, *, why: str) -> None:
        """Give a slice back unscored, and say why: it is sent again at its deadline, to whoever comes first."""
        self._redis.hset(self._key(run_id, step, "troubles"), str(index), why)
        self._redis.expire(self._key(run_id, step, "troubles"), KEEP_SECONDS)
        self.renew(run_id, step, index, fence, lease_seconds=0)

    def trouble(self, run_id: str, step: str, index: int) -> str | None:
        """Why the slice was put back the last time it was."""
        return cast("str | None", self._redis.hget(self._key(run_id, step, "troubles"), str(index)))

    def report(self, run_id: str, step: str, index: int, fence: int, report: dict[str, Any]) -> int | None:
        """Report a slice: how many are still missing, or None where the report was refused (taken over, or known already)."""
        keys = self._slice_keys(run_id, step, "fences", "reports", "leases", "messages")
        missing = int(self._report(keys=keys, args=[index, fence, _written(report), KEEP_SECONDS]))
        return None if missing < 0 else missing

    def reports(self, run_id: str, step: str) -> list[dict[str, Any]] | None:
        """All reports of a step in the order of its slices; None while one is missing. ``RecordNewer``."""
        expected = self._redis.hlen(self._key(run_id, step, "messages"))
        found = self._redis.hgetall(self._key(run_id, step, "reports"))
        if not expected or len(found) < expected:
            return None
        return [_read("slice report", found[str(index)]) for index in range(expected)]

    # ------------------------------------------------------------------------------------------------------------------

    def _write(self, run: Run, *, expected: int, search: dict[str, Any] | None = None) -> bool:
        keys = [self._key(run.id, part) for part in ("record", "search", "revision", "events")]
        state = "" if search is None else _written(search)
        return bool(self._save(keys=keys, args=[expected, run.model_dump_json(), state]))

    def _slice_keys(self, run_id: str, step: str, *parts: str) -> list[str]:
        return [self._key(run_id, step, part) for part in parts]

    def _key(self, run_id: str, *parts: str) -> str:
        return self._keys.run(run_id, ":".join(parts))

    def _found(self, ids: Iterable[str]) -> Sequence[Run]:
        """The runs of these ids that there are, in one round trip."""
        with self._redis.pipeline(transaction=False) as pipe:
            for run_id in ids:
                pipe.get(self._key(run_id, "record"))
            return [Run.model_validate_json(text) for text in pipe.execute() if text]

    def of(self, adapters: Collection[str], limit: int = 50, before: str | None = None) -> Sequence[Run]:
        """As ``list``, of these adapters alone; RunUnknown also where ``before`` is a run of another."""
        place = None
        if before is not None:
            run = self.find(before)
            score: Any = self._redis.zscore(self._keys.runs, before)
            if run is None or run.spec.adapter not in adapters or score is None:
                raise RunUnknown(before)
            place = (float(score), before)
        found: Sequence[Run] = ()
        while len(found) < limit and (rows := self._behind(place, adapters, limit - len(found))):
            found = [*found, *self._found(run_id for _, run_id in rows)]
            place = rows[-1]
        return found

    def _behind(
        self, place: tuple[float, str] | None, adapters: Collection[str], limit: int
    ) -> Sequence[tuple[float, str]]:
        """Up to ``limit`` places of runs of these adapters, newest first, from the one behind ``place`` on. A place is when
        a run began and its id: Redis's own order. One round trip."""
        with self._redis.pipeline(transaction=False) as pipe:
            for key in (self._keys.of(adapter, "runs") for adapter in sorted(adapters)):
                highest = "+inf" if place is None else f"({place[0]!r}"
                pipe.zrevrangebyscore(key, highest, "-inf", start=0, num=limit, withscores=True)
                if place is not None:
                    pipe.zrangebyscore(key, place[0], place[0], withscores=True)  # began at the same moment: hardly any
            rows: Any = [(score, run_id) for answer in pipe.execute() for run_id, score in answer]
        return sorted((row for row in rows if place is None or row < place), reverse=True)[:limit]

    # Last: inside the class, a method of this name hides the type.
    def list(self, adapter: str | None = None, limit: int = 50, before: str | None = None) -> list[Run]:
        """Newest first; ``before``: only those that began before this run. RunUnknown where there is no such run."""
        key = self._keys.runs if adapter is None else self._keys.of(adapter, "runs")
        first = 0
        if before is not None:
            rank: Any = self._redis.zrevrank(key, before)
            if rank is None:
                raise RunUnknown(before)
            first = rank + 1
        found: list[Run] = []
        while len(found) < limit:
            ids: Any = self._redis.zrevrange(key, first, first + limit - len(found) - 1)
            if not ids:
                break
            found += self._found(ids)  # fewer where a record is gone
            first += len(ids)
        return found


def _written(value: dict[str, Any]) -> str:
    """What is kept of a state or a report that is no record: it carries a schema number, as records do."""
    return json.dumps({**value, "schema_number": SCHEMA})


def _read(noun: str, text: Any) -> dict[str, Any]:
    """The value that was written. ``RecordNewer``; without a number it is of before there was one."""
    value: dict[str, Any] = json.loads(text)
    check_schema(noun, value.pop("schema_number", None))
    return value
