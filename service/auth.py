"""Who asks, and what they may do. A key has scopes, and may be limited to some adapters.

``SHOAL_API_KEY`` is one key with every scope. Without it Shoal answers this machine only, and asks for no key; a key that
is sent all the same counts as what it is. ``admin`` implies every scope.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass

from registry.api_keys import TOKEN, Scope, hash_of
from registry.errors import Forbidden, Unauthorized
from registry.records import now
from service.keyring import Keyring
from service.settings import ServiceSettings, is_loopback

_ODD = re.compile(r"[^A-Za-z0-9._@+-]")  # in a name that a caller gives itself
_LONGEST = 64
_NOBODY = hash_of("nobody's")  # what a key that does not exist is compared with, so that it takes as long
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:]+)(:\d+)?")


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever sent a request. ``name`` is what history writes down; ``key`` names the key, for its limits; ``raters``: those
    that it may give feedback for (None: any)."""

    name: str
    key: str
    scopes: frozenset[str]
    adapters: frozenset[str] | None = None  # None: every adapter
    rate: float | None = None
    raters: tuple[str, ...] | None = None
    max_body: int | None = None  # bytes

    def speaks_for(self, rater: str | None) -> str | None:
        """The rater whose feedback this is: the one that is named, or the only one that the key speaks for. ``Forbidden``."""
        if self.raters is None or rater in self.raters:
            return rater
        if rater is None and len(self.raters) == 1:
            return self.raters[0]
        told = "name one of its raters in 'rater'" if rater is None else f"not for '{rater[:64]}'"
        raise Forbidden(f"This key gives feedback for its own raters only: {told}.", field="rater")

    @property
    def may_everything(self) -> bool:
        return "admin" in self.scopes and self.adapters is None

    def sees(self, adapter: str) -> bool:
        return self.adapters is None or adapter in self.adapters

    def need(self, scope: Scope) -> None:
        """``Forbidden``, unless the key has the scope."""
        if scope not in self.scopes and "admin" not in self.scopes:
            held = ", ".join(sorted(self.scopes))
            raise Forbidden(f"This needs a key with the scope '{scope}'; this key has {held}.", scope=scope)

    def need_adapter(self, adapter: str) -> None:
        """``Forbidden``, unless the key is for this adapter; the same words whether there is such an adapter or not."""
        if not self.sees(adapter):
            raise Forbidden(f"This key is limited to other adapters than '{adapter[:64]}'.", adapter=adapter[:64])

    def need_every_adapter(self) -> None:
        """``Forbidden`` to a key that is limited to some adapters: what is asked tells of all."""
        if self.adapters is not None:
            raise Forbidden("This tells of every adapter, and this key is limited to some.")


class Auth:
    """Tells callers by their key. A request costs no question to Redis: the keys are in memory."""

    def __init__(self, settings: ServiceSettings, keyring: Keyring) -> None:
        self._key = settings.api_key.get_secret_value().encode() if settings.api_key else None
        self._keyring = keyring

    def caller(self, headers: Mapping[str, str], client: str | None) -> Caller:
        """Who asks. ``Unauthorized`` where a key is missing or wrong, ``Forbidden`` to a page of another site."""
        # What a caller says of itself stands beside the key's name, never in its place.
        user = _ODD.sub("_", headers.get("x-shoal-user", ""))[:_LONGEST]
        scheme, _, given = headers.get("authorization", "").partition(" ")
        token = given.strip() if scheme.lower() == "bearer" else ""
        if (found := TOKEN.fullmatch(token)) is not None:
            return self._by_token(found["id"], found["secret"], user)
        if self._key is None:
            _same_machine(headers, client)
            return Caller(user or "operator", "", frozenset({"admin"}))
        if not hmac.compare_digest(token.encode(), self._key):
            raise Unauthorized("A valid key is needed: send `Authorization: Bearer KEY`.")
        return Caller(f"{user} via admin" if user else "admin", "admin", frozenset({"admin"}))

    def _by_token(self, key_id: str, secret: str, user: str) -> Caller:
        key = self._keyring.get(key_id)
        same = hmac.compare_digest(hash_of(secret), key.secret_sha256 if key else _NOBODY)
        if key is None or not same or not key.valid(now()):
            raise Unauthorized("This key is not valid: unknown, revoked or expired. Ask for a new one.")
        return Caller(
            f"{user} via {key.name}" if user else key.name,
            key.id,
            frozenset(key.scopes),
            None if key.adapters is None else frozenset(key.adapters),
            key.rate,
            key.raters,
            None if key.max_body_mb is None else int(key.max_body_mb * (1 << 20)),
        )


def _same_machine(headers: Mapping[str, str], client: str | None) -> None:
    """Without keys: whatever address a server was told to listen on, only this machine is answered, and no web page that
    a browser of this machine has open on another site (it would come with that site's origin, or under its name)."""
    if client is not None and not is_loopback(client):
        raise Unauthorized("This Shoal has no key and answers its own machine only. Set SHOAL_API_KEY.")
    host, origin = headers.get("host", "localhost"), headers.get("origin")
    named = _HOST.fullmatch(host)
    if named is None or not is_loopback(named[1].strip("[]")):
        raise Forbidden("Without a key only this machine is answered, by its own name: use http://127.0.0.1.")
    if origin is not None and origin.partition("://")[2] != host:
        raise Forbidden("Without a key a page of another site is not answered. Set SHOAL_API_KEY.")
