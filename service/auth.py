"""Who may do what: one admin key, compared in constant time. Without a key the service listens on loopback only."""

from __future__ import annotations

import hmac

from fastapi import Request

from registry.errors import ShoalError
from service.settings import ServiceSettings, is_loopback


class Unauthorized(ShoalError):
    """401: no key, or not the right one. The message never repeats what was sent."""

    status = 401
    code = "unauthorized"


class Auth:
    """Checks the bearer key of a request and says who asks."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._key = settings.api_key.get_secret_value().encode() if settings.api_key else None

    def check(self, request: Request) -> str:
        """The name that history writes down for this caller; Unauthorized where the key is missing or wrong."""
        if self._key is None:
            # Whatever address a server was told to listen on: without a key only this machine is answered.
            if request.client is not None and not is_loopback(request.client.host):
                raise Unauthorized("This Shoal has no key and answers its own machine only. Set SHOAL_API_KEY.")
            return request.headers.get("x-shoal-user", "operator")[:64]
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._key):
            raise Unauthorized("A valid key is needed: send `Authorization: Bearer $SHOAL_API_KEY`.")
        return request.headers.get("x-shoal-user", "admin")[:64]
