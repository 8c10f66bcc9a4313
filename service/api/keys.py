"""API keys: make one, list them, revoke one."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field

from registry.api_keys import ApiKey
from registry.errors import RegistryDown
from service.api.parts import Body, Caller, Parts, PartsOf, Why

router = APIRouter(prefix="/api/keys", tags=["keys"])


class NewKey(Body):
    """``adapters``: the only ones that the key is for; ``rate``: requests a second; ``max_body_mb``: the largest body of
    a request; ``days``: how long it is valid; ``raters``: the only ones that it gives feedback for."""

    name: str
    scopes: list[str]
    adapters: list[str] | None = None
    rate: float | None = Field(default=None, gt=0, le=1e6)
    max_body_mb: float | None = Field(default=None, gt=0, le=1e6)
    days: float | None = None
    raters: list[str] | None = None


class Reason(Body):
    reason: Why = ""


@router.post("", status_code=201)
def create_key(body: NewKey, parts: PartsOf, caller: Caller) -> Any:
    """The key's ``token`` is in this answer and nowhere else, ever."""
    key, token = parts.registry.api_keys.create(
        body.name,
        body.scopes,
        by=caller,
        adapters=body.adapters,
        rate=body.rate,
        max_body_mb=body.max_body_mb,
        days=body.days,
        raters=body.raters,
    )
    # Redis may have gone since: the key is kept, this answer has its only token, and the next look is soon.
    with suppress(RegistryDown):
        _look(parts)
    return {"key": shown(key), "token": token}


@router.get("")
def list_keys(parts: PartsOf, _: Caller) -> Any:
    """``problems``: by its id why a key cannot be read here."""
    keys, problems = parts.registry.api_keys.read()
    return {"keys": [shown(key) for key in keys], "problems": problems}


@router.get("/history")
def key_history(parts: PartsOf, _: Caller, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> Any:
    """Who made or revoked which key, when and why; newest first."""
    return {"events": parts.registry.api_keys.history(limit)}


@router.delete("/{key_id}")
def revoke_key(key_id: str, parts: PartsOf, caller: Caller, body: Reason | None = None) -> Any:
    """The key opens nothing any more: here at once, elsewhere within a second."""
    key = parts.registry.api_keys.revoke(key_id, by=caller, reason=body.reason if body else "")
    _look(parts)
    return {"key": shown(key)}


def shown(key: ApiKey) -> dict[str, Any]:
    """A key as it may be seen: without its hash."""
    return key.model_dump(mode="json", exclude={"secret_sha256", "schema_number"})


def _look(parts: Parts) -> None:
    parts.keyring.look()
