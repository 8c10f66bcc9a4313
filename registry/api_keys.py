"""API keys: who may ask for what. A key is shown once, when it is made; what is kept is the hash of its secret.

A key reads ``shoal_ID_SECRET``. The secret is 32 random bytes, so its plain sha256 is as hard to turn back as any slow
password hash: nobody can guess 2^256 values, fast or slow. A salt would guard equal secrets, and there are none.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, get_args

from pydantic import Field

from registry.connection import RegistryRedis
from registry.errors import BadInput, KeyUnknown, RecordNewer
from registry.keys import Keys
from registry.lua import script
from registry.records import ADAPTER_NAME, SCHEMA, AdapterName, Record, now

Scope = Literal["infer", "feedback", "operate", "admin"]
SCOPES: tuple[str, ...] = get_args(Scope)
TOKEN = re.compile(r"shoal_(?P<id>[0-9a-f]{12})_(?P<secret>[A-Za-z0-9_-]{43})")
_KEY_NAME = re.compile(r"[A-Za-z0-9._@+-]{1,64}")  # no blank: history says "ann via ops" of a caller and its key
LONGEST_RATER = 128
_RESERVED = ("admin", "operator")
_RECORDS, _REVISION, _HISTORY = "records", "revision", "history"


class ApiKey(Record):
    """What is kept of a key. ``adapters``: those it is limited to (None: all); ``rate``: requests a second; ``max_body_mb``: the
    largest body of a request, where that is less than the service takes; ``raters``: those that it may give feedback for (None:
    any)."""

    id: str
    name: str
    secret_sha256: str
    scopes: tuple[Scope, ...]
    adapters: tuple[AdapterName, ...] | None = None
    rate: float | None = Field(default=None, gt=0)
    max_body_mb: float | None = Field(default=None, gt=0)
    raters: tuple[str, ...] | None = None
    created_at: datetime
    created_by: str
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    revoked_by: str = ""
    schema_number: int = SCHEMA

    def valid(self, at: datetime) -> bool:
        """Whether it opens anything at this moment."""
        return self.revoked_at is None and (self.expires_at is None or at < self.expires_at)


class ApiKeys:
    """Every key there is or was, and what was done to them. Safe for threads; ``RegistryDown`` when Redis is away."""

    def __init__(self, client: RegistryRedis, keys: Keys) -> None:
        self._redis = client
        self._names = {part: keys.of(":keys", part) for part in (_RECORDS, _REVISION, _HISTORY)}
        self._put = script(client, "key_put")

    def create(
        self,
        name: str,
        scopes: Sequence[str],
        *,
        by: str,
        adapters: Sequence[str] | None = None,
        rate: float | None = None,
        max_body_mb: float | None = None,
        days: float | None = None,
        raters: Sequence[str] | None = None,
    ) -> tuple[ApiKey, str]:
        """A new key, and its token, which nobody can be told again. ``BadInput`` names the field that is wrong."""
        if not _KEY_NAME.fullmatch(name) or name in _RESERVED:
            told = "1 to 64 letters, digits, '.', '_', '@', '+', '-', and not a name of Shoal's own"
            raise BadInput(f"'name' is {name[:80]!r}; it says whose key it is: {told}.", field="name")
        if not scopes or (wrong := [scope for scope in scopes if scope not in SCOPES]):
            told = f"{', '.join(wrong)} is none" if scopes else "there is none"
            raise BadInput(f"'scopes' must be some of {', '.join(SCOPES)}: {told}.", field="scopes")
        if adapters is not None and (odd := [one for one in adapters if not ADAPTER_NAME.fullmatch(one)]):
            raise BadInput(f"'adapters': '{odd[0][:80]}' is not an adapter name.", field="adapters")
        if raters is not None and not all(0 < len(rater) <= LONGEST_RATER for rater in raters or ("",)):
            raise BadInput(f"'raters' must be names of 1 to {LONGEST_RATER} characters, at least one.", field="raters")
        if days is not None and not 0 < days <= 36_500:
            raise BadInput("'days' must be above 0, at most 36500.", field="days")
        at, secret = now(), secrets.token_urlsafe(32)
        while True:
            key = ApiKey(
                id=secrets.token_hex(6),
                name=name,
                secret_sha256=hash_of(secret),
                scopes=tuple(dict.fromkeys(scopes)),  # type: ignore[arg-type]  # checked above
                adapters=None if adapters is None else tuple(dict.fromkeys(adapters)),
                rate=rate,
                max_body_mb=max_body_mb,
                raters=None if raters is None else tuple(dict.fromkeys(raters)),
                created_at=at,
                created_by=by,
                expires_at=None if days is None else at + timedelta(days=days),
            )
            if self._write(key, KeyEvent(kind="created", key=key.id, name=name, at=at, by=by), "new"):
                return key, f"shoal_{key.id}_{secret}"

    def revoke(self, key_id: str, *, by: str, reason: str = "") -> ApiKey:
        """The key opens nothing any more; its record stays. Repeated: no change. ``KeyUnknown``."""
        key = self.get(key_id)
        if key.revoked_at is not None:
            return key
        gone = key.model_copy(update={"revoked_at": now(), "revoked_by": by})
        event = KeyEvent(kind="revoked", key=key_id, name=key.name, at=now(), by=by, reason=reason)
        self._write(gone, event, "old")
        return gone

    def get(self, key_id: str) -> ApiKey:
        """``KeyUnknown`` where there never was one."""
        record = self._redis.hget(self._names[_RECORDS], key_id)
        if record is None:
            raise KeyUnknown(key_id)
        return ApiKey.model_validate_json(str(record))

    def every(self) -> list[ApiKey]:
        """Every key that can be read here, newest first; revoked and expired ones too."""
        return self.read()[0]

    def read(self) -> tuple[list[ApiKey], dict[str, str]]:
        """``every``, and by its id why a key cannot be read here: such a one opens nothing, and stands in no other key's way."""
        keys, problems = [], {}
        records: Any = self._redis.hgetall(self._names[_RECORDS])
        for key_id, record in records.items():
            try:
                keys.append(ApiKey.model_validate_json(record))
            except RecordNewer as newer:
                problems[key_id] = newer.message
        return sorted(keys, key=lambda key: key.created_at, reverse=True), problems

    def history(self, limit: int = 100) -> list[KeyEvent]:
        """What was done to keys, newest first."""
        entries: Any = self._redis.xrevrange(self._names[_HISTORY], count=limit)
        return [KeyEvent.model_validate_json(fields["event"]) for _, fields in entries]

    def revision(self) -> int:
        """One more for every change: the cheap question of a service that polls."""
        return int(self._redis.get(self._names[_REVISION]) or 0)  # type: ignore[arg-type]

    def _write(self, key: ApiKey, event: KeyEvent, how: str) -> bool:
        names = [self._names[part] for part in (_RECORDS, _REVISION, _HISTORY)]
        return bool(self._put(keys=names, args=[key.id, key.model_dump_json(), event.model_dump_json(), how]))


class KeyEvent(Record):
    """One change of one key: who, when, why."""

    kind: Literal["created", "revoked"]
    key: str
    name: str
    at: datetime
    by: str
    reason: str = ""
    schema_number: int = SCHEMA


def hash_of(secret: str) -> str:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()
