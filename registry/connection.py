"""The one connection to Redis, and the one place where its failures become ``RegistryDown``."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import redis
from redis import exceptions
from redis.backoff import ConstantBackoff
from redis.client import Pipeline
from redis.retry import Retry

from registry.errors import RegistryDown

ANSWER_SECONDS = 4.0  # a command takes milliseconds, or up to two seconds behind a slow disk (append-only file)
CONNECT_SECONDS = 2.0
REST_SECONDS = 1.0

# Any other ResponseError (a wrong type, a broken script) is a defect of ours and must stay loud: it is not translated.
_DOWN = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    exceptions.OutOfMemoryError,
)
# Redis answers, and will not write: its disk is full, its memory is, it has no master or too few replicas. Inside a
# script Redis 6 wraps these words in its own.
_WILL_NOT = re.compile(r"\b(MISCONF|OOM command|READONLY|NOREPLICAS|MASTERDOWN|CLUSTERDOWN|BUSY Redis)\b")


class Patience:
    """How a Redis that hangs (stopped, swapping, behind a dead network) holds up one caller at a time, not all.

    A refused connection is told at once; a silent one only after ``ANSWER_SECONDS``. After such a silence everybody
    else is told ``RegistryDown`` at once, and every ``REST_SECONDS`` one call tries whether Redis is back. Without it
    every thread of the service would soon be waiting. Safe for threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._silent = False
        self._again = 0.0
        self._trier = 0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Whatever means 'Redis cannot be reached or will not write' leaves as ``RegistryDown``."""
        with self._lock:
            at = time.monotonic()
            if self._silent and at < self._again and self._trier != threading.get_ident():  # one call may hold another
                raise RegistryDown("it does not answer")
            self._trier = threading.get_ident()
            self._again = at + ANSWER_SECONDS + CONNECT_SECONDS  # while this one tries
        try:
            yield
        except exceptions.TimeoutError as error:
            with self._lock:
                self._silent, self._trier, self._again = True, 0, time.monotonic() + REST_SECONDS
            raise RegistryDown(str(error) or "it does not answer") from error
        except _DOWN as error:
            self._silent = False
            raise RegistryDown(str(error) or type(error).__name__) from error
        except exceptions.ResponseError as error:
            self._silent = False
            if _WILL_NOT.search(str(error)):
                raise RegistryDown(str(error)) from error
            raise
        else:
            self._silent = False


class RegistryRedis(redis.Redis):
    """A redis-py client that raises errors of Shoal's tree. Scripts, locks and pipelines go through it, too."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.patience = Patience()

    def execute_command(self, *args: Any, **options: Any) -> Any:
        with self.patience():
            return super().execute_command(*args, **options)

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Pipeline:
        made = _RegistryPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)
        made.patience = self.patience
        return made


class _RegistryPipeline(Pipeline):
    patience: Patience

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        with self.patience():
            return super().execute(raise_on_error)

    def immediate_execute_command(self, *args: Any, **options: Any) -> Any:
        with self.patience():
            return super().immediate_execute_command(*args, **options)


def connect(url: str) -> RegistryRedis:
    """A client for ``url``; nothing is sent yet. Text in, text out.

    One quick retry covers a connection that the server closed while it was idle; a silence is not asked twice. A retry
    may repeat a change that was made but not answered: that is why every change is safe to repeat (operation ids, ids,
    digests).
    """
    client = RegistryRedis.from_url(
        url,
        decode_responses=True,
        socket_timeout=ANSWER_SECONDS,
        socket_connect_timeout=CONNECT_SECONDS,
        socket_keepalive=True,
        health_check_interval=15,
        retry=Retry(ConstantBackoff(0.05), 1, supported_errors=(exceptions.ConnectionError,)),
    )
    return cast(RegistryRedis, client)
