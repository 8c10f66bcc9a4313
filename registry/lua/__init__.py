"""The atomic changes, one Lua file each, carried as package data."""

from __future__ import annotations

from importlib import resources

import redis
from redis.commands.core import Script


def script(client: redis.Redis, name: str) -> Script:
    """The script of ``registry/lua/{name}.lua``; called as ``script(keys=[...], args=[...])``, one round trip."""
    return client.register_script(resources.files(__name__).joinpath(f"{name}.lua").read_text("utf-8"))
