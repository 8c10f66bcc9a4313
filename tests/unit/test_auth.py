"""Who is answered: with a key whoever sends it, without one this machine only."""

from __future__ import annotations

import pytest
from fastapi import Request
from pydantic import SecretStr

from registry.errors import BadInput
from service.auth import Auth, Unauthorized
from service.settings import ServiceSettings


def request(client: str = "127.0.0.1", **headers: str) -> Request:
    encoded = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": encoded, "client": (client, 1234)})


def test_the_key_opens_and_nothing_else_does() -> None:
    """No key, a wrong one, or one in another scheme is 401; the message does not repeat what was sent."""
    auth = Auth(ServiceSettings(api_key=SecretStr("open-sesame")))
    assert auth.check(request(authorization="Bearer open-sesame")) == "admin"
    assert auth.check(request("10.0.0.7", authorization="bearer open-sesame", x_shoal_user="ann")) == "ann"
    for wrong in ({}, {"authorization": "Bearer nope"}, {"authorization": "Basic open-sesame"}):
        with pytest.raises(Unauthorized) as refused:
            auth.check(request(**wrong))
        assert "nope" not in str(refused.value)


def test_without_a_key_only_this_machine_is_answered() -> None:
    """Whatever address the server listens on."""
    auth = Auth(ServiceSettings())
    assert auth.check(request()) == "operator"
    with pytest.raises(Unauthorized):
        auth.check(request("10.0.0.7"))


def test_an_open_address_needs_a_key() -> None:
    """The settings refuse to start."""
    with pytest.raises(BadInput, match="SHOAL_API_KEY"):
        ServiceSettings.load(host="0.0.0.0")  # noqa: S104
    assert ServiceSettings.load(host="0.0.0.0", api_key="k").host == "0.0.0.0"  # noqa: S104
