"""Which digests a record names, and who names them: the question of garbage collection and of the check of the place.

Every record counts, whatever its kind: a digest that stands anywhere in a key of the namespace is named. Only prompts and
feedback are left out, which are many and name no weights, and the tables of ``registry/arrivals.py``.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from registry.connection import RegistryRedis
from registry.keys import Keys
from registry.records import Version

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_BATCH = 500


def named(client: RegistryRedis, keys: Keys) -> dict[str, list[str]]:
    """digest -> who names it: versions as ``support-bot@7``, anything else by its key. Every record is read."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for key in client.scan_iter(match=f"{_escaped(keys.namespace)}:*", count=1000):
        rest = str(key).removeprefix(f"{keys.namespace}:")
        if rest.startswith(("interaction:", "{:artifacts}:", "celery:")) or re.search(r"}:feedback(-[a-z]+)?$", rest):
            continue
        if rest.endswith("}:versions"):
            for record in client.hvals(key):
                version = Version.model_validate_json(record)
                for digest in _DIGEST.findall(str(record)):
                    own = digest == version.digest
                    found[digest].add(version.engine_name if own else f"lineage of {version.engine_name}")
            continue
        for text in _texts(client, key):
            for digest in _DIGEST.findall(text):
                found[digest].add(rest)
    return {digest: _told(by) for digest, by in found.items()}


def _told(by: set[str]) -> list[str]:
    """Versions first; the keys that say nothing more than they do (history, digests) only where no version says it."""
    versions = sorted(name for name in by if "{" not in name)
    return versions or sorted(by)


def _texts(client: RegistryRedis, key: str) -> Iterator[str]:
    """Everything that stands in one key."""
    redis: Any = client  # its types are a union of both kinds of answers; ours are text
    kind = redis.type(key)
    if kind == "string":
        yield str(redis.get(key) or "")
    elif kind == "hash":
        for field, value in redis.hscan_iter(key, count=_BATCH):
            yield f"{field} {value}"
    elif kind == "set":
        yield from redis.sscan_iter(key, count=_BATCH)
    elif kind == "zset":
        for member, _ in redis.zscan_iter(key, count=_BATCH):
            yield str(member)
    elif kind == "list":
        yield from redis.lrange(key, 0, -1)
    elif kind == "stream":
        after = "-"
        while entries := redis.xrange(key, min=after, count=_BATCH):
            for _, fields in entries:
                yield " ".join(f"{field} {value}" for field, value in fields.items())
            after = f"({entries[-1][0]}"


def _escaped(namespace: str) -> str:
    return re.sub(r"([*?\[\]\\])", r"\\\1", namespace)
