"""The records of one namespace as lines of JSON, out of Redis and back into it.

A line is a key without its namespace, its type, what stands in it and, where it ends by itself, when (milliseconds since
1970). A long key is several lines, in order. What describes this moment alone is left out: live replicas and their wishes,
the broker's messages, leases, announcements of arriving bytes, the count of moves that replicas poll.

Reading needs no quiet Redis. Runs are read before adapters, so that a run never says more than the versions that are
there (as after a worker that died: it goes on and repeats what is safe to repeat). Of each adapter everything that
changes is read in one MULTI; history and feedback only grow, and are read up to the length that they had in it.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from registry.connection import RegistryRedis
from registry.keys import Keys

KINDS = ("keys", "runs", "interactions", "other", "adapters", "feedback")
_PAGE = 500
_MOMENTARY = re.compile(
    r"celery:|\{:(replicas|wanted|artifacts|restore|workers|rollouts)\}:|\{run:[^}]*\}:.*(lease:\d+|leases)$"
)
_TAGGED = re.compile(r"\{([^}]*)\}:(.+)")
# Those of an adapter that change, with their types: one that is made while the namespace is scanned is not missed.
_PARTS = {
    "adapter": "hash",
    "rollout": "hash",
    "versions": "hash",
    "retired": "set",
    "digests": "hash",
    "moves": "zset",
    "figures": "hash",
    "guards": "hash",
    "feedback-slots": "hash",
    "feedback-superseded": "hash",
    "run": "string",
    "runs": "zset",
}
_GROWING = re.compile(r"history|feedback|feedback-order|operation:.*")


@dataclass(frozen=True, slots=True)
class Line:
    """A key, or a page of one. ``value``: text, a map, or a list of members, of [member, score] or of [id, fields]."""

    key: str
    type: str
    value: Any
    expires_at: int | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Line:
        """``ValueError`` for what is no line."""
        fields = json.loads(text)
        if not isinstance(fields, dict) or set(fields) != {"key", "type", "value", "expires_at"}:
            raise ValueError("not a line of a backup")
        if not isinstance(fields["key"], str) or fields["type"] not in _WRITES:
            raise ValueError("not a line of a backup")
        return cls(**fields)


def present(client: RegistryRedis, keys: Keys) -> set[str]:
    """The keys that a backup reads, without their namespace."""
    prefix = f"{keys.namespace}:"
    pattern = re.sub(r"([*?\[\]\\])", r"\\\1", prefix) + "*"
    found = (str(key).removeprefix(prefix) for key in client.scan_iter(match=pattern, count=1000))
    return {key for key in found if not _MOMENTARY.match(key)}


def read(client: RegistryRedis, keys: Keys) -> Iterator[tuple[str, Line]]:
    """Every line with its kind; the kinds in the order of ``KINDS``, except that feedback comes with its adapter."""
    redis: Any = client
    names = sorted(redis.smembers(keys.adapters))
    runs = redis.zrange(keys.runs, 0, -1, withscores=True)  # before the scan: what it names is then found
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for key in sorted(present(client, keys) - {"adapters", "runs"}):
        tagged = _TAGGED.fullmatch(key)
        groups[tagged[1] if tagged else key].append(key)
    alone = _Reader(redis, keys)
    yield from (("keys", line) for line in alone.together(groups.pop(":keys", [])))
    yield from (("runs", line) for line in _pages("runs", "zset", [list(pair) for pair in runs], None))
    for group in [group for group in groups if group.startswith("run:")]:
        yield from (("runs", line) for line in alone.together(groups.pop(group)))
    told = [key for group in list(groups) if group.startswith("interaction:") for key in groups.pop(group)]
    yield from (("interactions", line) for line in alone.apart(told))
    adapters = {name: groups.pop(name, []) for name in names}
    other = [key for found in groups.values() for key in found if not _GROWING.fullmatch(key.rpartition("}:")[2])]
    yield from (("other", line) for line in alone.together(other))
    there = []
    for name, found in adapters.items():
        lines = list(alone.adapter(name, found))
        if lines:
            there.append(name)
            yield from lines
            yield from alone.feedback(name)
    yield "adapters", Line("adapters", "set", there)


class _Reader:
    def __init__(self, redis: Any, keys: Keys) -> None:
        self._redis, self._prefix = redis, f"{keys.namespace}:"
        self._feedback = 0

    def together(self, found: Iterable[str]) -> Iterator[Line]:
        """These keys as they are at one moment."""
        wanted = list(found)
        if not wanted:
            return
        with self._redis.pipeline(transaction=False) as pipe:
            for key in wanted:
                pipe.type(self._prefix + key)
            types = pipe.execute()
        yield from self._moment([(key, kind) for key, kind in zip(wanted, types, strict=True) if kind != "none"])[0]

    def apart(self, found: list[str]) -> Iterator[Line]:
        """Many keys of text, each by itself."""
        for start in range(0, len(found), _PAGE):
            page = found[start : start + _PAGE]
            yield from self._moment([(key, "string") for key in page])[0]

    def adapter(self, name: str, found: Iterable[str]) -> Iterator[tuple[str, Line]]:
        """Everything of an adapter but its feedback; nothing where it has no record."""
        parts = {f"{{{name}}}:{part}": kind for part, kind in _PARTS.items()}
        extra = [key for key in found if key not in parts and not _GROWING.fullmatch(key.partition("}:")[2])]
        with self._redis.pipeline(transaction=False) as pipe:
            for key in extra:
                pipe.type(self._prefix + key)
            parts |= {key: kind for key, kind in zip(extra, pipe.execute(), strict=True) if kind != "none"}
        order = f"{self._prefix}{{{name}}}:feedback-order"
        lines, self._feedback = self._moment(list(parts.items()), order)
        record = next((line.value for line in lines if line.key == f"{{{name}}}:adapter"), None)
        if record is None:
            return
        yield from (("adapters", line) for line in lines)
        yield from (("adapters", line) for line in self._history(name, int(record["events"])))

    def feedback(self, name: str) -> Iterator[tuple[str, Line]]:
        """What had come when the adapter was read, in its order."""
        tag = f"{{{name}}}:feedback"
        for start in range(0, self._feedback, _PAGE):
            page = self._redis.zrange(
                f"{self._prefix}{tag}-order", start, min(start + _PAGE, self._feedback) - 1, withscores=True
            )
            records = self._redis.hmget(self._prefix + tag, [member for member, _ in page])
            held = {member: record for (member, _), record in zip(page, records, strict=True) if record is not None}
            yield "feedback", Line(tag, "hash", held)
            yield "feedback", Line(f"{tag}-order", "zset", [list(pair) for pair in page])

    def _history(self, name: str, events: int) -> Iterator[Line]:
        """The events up to a number, and what the operations that they name were answered."""
        tag, after = f"{{{name}}}", "-"
        while entries := self._redis.xrange(f"{self._prefix}{tag}:history", min=after, max=f"{events}-0", count=_PAGE):
            yield Line(f"{tag}:history", "stream", [[place, fields] for place, fields in entries])
            named = {json.loads(fields["event"]).get("operation_id") for _, fields in entries}
            yield from self.apart([f"{tag}:operation:{one}" for one in sorted(filter(None, named))])
            after = f"({entries[-1][0]}"

    def _moment(self, wanted: list[tuple[str, str]], counted: str = "") -> tuple[list[Line], int]:
        """What stands in the keys, and how long the sorted set ``counted`` is, all at one moment."""
        with self._redis.pipeline() as pipe:
            for key, kind in wanted:
                _READS[kind](pipe, self._prefix + key)
                pipe.pttl(self._prefix + key)
            pipe.time()
            pipe.zcard(counted or f"{self._prefix}runs")
            *answers, (seconds, micros), count = pipe.execute()
        at = seconds * 1000 + micros // 1000
        lines: list[Line] = []
        for (key, kind), value, left in zip(wanted, answers[::2], answers[1::2], strict=True):
            if value:
                lines += _pages(key, kind, _spelled(kind, value), at + left if left >= 0 else None)
        return lines, count


def write(client: RegistryRedis, keys: Keys, lines: Iterable[Line]) -> None:
    """Puts lines into Redis, in their order; what ended meanwhile is left out. The keys must be free."""
    redis: Any = client
    seconds, micros = redis.time()
    at = seconds * 1000 + micros // 1000
    with redis.pipeline(transaction=False) as pipe:
        for number, line in enumerate(lines, start=1):
            if line.expires_at is not None and line.expires_at <= at:
                continue
            key = f"{keys.namespace}:{line.key}"
            _WRITES[line.type](pipe, key, line.value)
            if line.expires_at is not None:
                pipe.pexpireat(key, line.expires_at)
            if number % 100 == 0:
                pipe.execute()
        pipe.execute()


def clear(client: RegistryRedis, keys: Keys, but: str = "") -> None:
    """Deletes what ``present`` names, the indices first; a key that begins with ``but`` stays, where one is given."""
    client.delete(keys.runs, keys.adapters)
    for key in present(client, keys):
        if not but or not key.startswith(but):
            client.delete(f"{keys.namespace}:{key}")


def _pages(key: str, kind: str, value: Any, expires_at: int | None) -> list[Line]:
    if isinstance(value, dict):
        pairs = list(value.items())
        return [Line(key, kind, dict(pairs[n : n + _PAGE]), expires_at) for n in range(0, len(pairs), _PAGE)]
    if isinstance(value, list):
        return [Line(key, kind, value[n : n + _PAGE], expires_at) for n in range(0, len(value), _PAGE)]
    return [Line(key, kind, value, expires_at)]


def _spelled(kind: str, value: Any) -> Any:
    if kind == "set":
        return sorted(value)
    return [list(pair) for pair in value] if kind in ("zset", "stream") else value


def _add_entries(pipe: Any, key: str, entries: list[Any]) -> None:
    for place, fields in entries:
        pipe.xadd(key, fields, id=place)


_READS: dict[str, Any] = {
    "string": lambda pipe, key: pipe.get(key),
    "hash": lambda pipe, key: pipe.hgetall(key),
    "set": lambda pipe, key: pipe.smembers(key),
    "zset": lambda pipe, key: pipe.zrange(key, 0, -1, withscores=True),
    "list": lambda pipe, key: pipe.lrange(key, 0, -1),
    "stream": lambda pipe, key: pipe.xrange(key),
}
_WRITES: dict[str, Any] = {
    "string": lambda pipe, key, value: pipe.set(key, value),
    "hash": lambda pipe, key, value: pipe.hset(key, mapping=value),
    "set": lambda pipe, key, value: pipe.sadd(key, *value) if value else None,
    "zset": lambda pipe, key, value: pipe.zadd(key, dict(value)),
    "list": lambda pipe, key, value: pipe.rpush(key, *value),
    "stream": _add_entries,
}
