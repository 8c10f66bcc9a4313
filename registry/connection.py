"""The one connection to Redis, and the one place where its failures become ``RegistryDown``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import redis
from redis import exceptions
from redis.backoff import ConstantBackoff
from redis.client import Pipeline
from redis.retry import Retry

from registry.errors import RegistryDown

# A ResponseError (a wrong type, a broken script) is a defect of ours and must stay loud: it is not in this list.
_DOWN = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    exceptions.OutOfMemoryError,
)


@contextmanager
def translated() -> Iterator[None]:
    """Whatever means 'Redis cannot be reached or will not write' leaves as ``RegistryDown``."""
    try:
        yield
    except _DOWN as error:
        raise RegistryDown(str(error) or type(error).__name__) from error


class RegistryRedis(redis.Redis):
    """A redis-py client that raises errors of Shoal's tree. Scripts, locks and pipelines go through it, too."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        with translated():
            return super().execute_command(*args, **options)

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Pipeline:
        return _RegistryPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


class _RegistryPipeline(Pipeline):
    def execute(self, raise_on_error: bool = True) -> list[Any]:
        with translated():
            return super().execute(raise_on_error)

    def immediate_execute_command(self, *args: Any, **options: Any) -> Any:
        with translated():
            return super().immediate_execute_command(*args, **options)


def connect(url: str) -> RegistryRedis:
    """A client for ``url``; nothing is sent yet. Text in, text out.

    One quick retry covers a connection that the server closed while it was idle. A retry may repeat a change that was
    made but not answered: that is why every change is safe to repeat (operation ids, ids, digests).
    """
    client = RegistryRedis.from_url(
        url,
        decode_responses=True,
        socket_timeout=5.0,
        socket_connect_timeout=2.0,
        socket_keepalive=True,
        health_check_interval=15,
        retry=Retry(ConstantBackoff(0.05), 1),
    )
    return cast(RegistryRedis, client)
