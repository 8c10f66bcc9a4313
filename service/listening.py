"""Where this process really listens: BentoML opens the socket, whatever ``SHOAL_HOST`` says."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence

from registry.errors import BadInput
from service.settings import ServiceSettings, is_loopback


def refuse_open_address(settings: ServiceSettings, arguments: Sequence[str] = sys.argv) -> None:
    """``BadInput`` where others than this machine could reach a service that asks for no key."""
    if settings.api_key is None and (address := _bound(arguments)) is not None and not is_loopback(address):
        raise BadInput(
            f"The service listens on {address}: set SHOAL_API_KEY, or serve with --host 127.0.0.1.", field="host"
        )


def _bound(arguments: Sequence[str]) -> str | None:
    """The address of the socket that BentoML handed over (``--fd N``); None: none, or not of a network."""
    if "--fd" not in arguments:
        return None
    try:
        with socket.socket(fileno=os.dup(int(arguments[arguments.index("--fd") + 1]))) as handed:
            name = handed.getsockname()
    except (OSError, ValueError, IndexError):
        return None
    return str(name[0]) if isinstance(name, tuple) else None
