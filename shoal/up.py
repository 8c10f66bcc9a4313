"""All of Shoal on this machine: Redis, workers and the service, started, watched and stopped as one.

    with Up(UpSettings.load(home="./.shoal", port=3000)) as up:
        up.wait_ready(timeout=300)
        Client(up.url).adapters()

State stays under the home: the next start goes on where this one ended.
"""

from __future__ import annotations

import fcntl
import importlib.util
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable
from logging.handlers import RotatingFileHandler
from typing import IO, Self

from registry.logs import JsonFormatter
from shoal import leftovers, processes, redis_server
from shoal.client import Client
from shoal.errors import UpError
from shoal.processes import ProcessSpec
from shoal.settings import UpSettings
from shoal.starter_pack import StarterPack
from shoal.supervisor import Supervisor

LOG_BYTES = 20_000_000  # of one process, then it starts a new file and keeps the last
Table = Callable[[UpSettings], list[ProcessSpec]]


class Up:
    """One Shoal under one home. ``start`` and ``stop`` once each, from any thread; every refusal is an ``UpError``.

    ``echo(name, line)`` gets every line that a process writes, and ``shoal``'s own; without it only HOME/logs does.
    ``table``: the processes beside Redis, for tests and for homes that are made differently.
    """

    def __init__(
        self,
        settings: UpSettings,
        *,
        echo: Callable[[str, str], None] | None = None,
        table: Table = processes.processes,
    ) -> None:
        self.settings = settings
        self.url = settings.url
        self.redis_url = settings.redis_url or ""
        self.pack: StarterPack | None = None
        self._echo, self._table = echo, table
        self._logs: dict[str, logging.Logger] = {}
        self._lock: IO[str] | None = None
        self._supervisor: Supervisor | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start everything; returns when Redis answers and the others are starting. Refuses before anything starts."""
        if not self.settings.loopback and not self.settings.api_key:
            raise UpError(
                f"Whoever reaches {self.settings.host} could change this Shoal. Set SHOAL_API_KEY, or leave out --host."
            )
        self._take_home()
        try:
            self._supervisor = self._prepare()
            self._supervisor.start()
            self._supervisor.started.wait()
            self._raise_failure()
        except BaseException:
            self.stop()
            raise

    def wait_ready(self, timeout: float | None = None) -> bool:
        """Wait until the service answers, then import the starter pack where it is wanted; False if stopped meanwhile.

        ``UpError`` when a process cannot be kept running, or when ``timeout`` seconds have passed.
        """
        supervisor = self._running()
        until = None if timeout is None else time.monotonic() + timeout
        while not supervisor.ready.wait(0.1):
            self._raise_failure()
            if supervisor.ended.is_set() or supervisor.stopping:
                return False
            if until is not None and time.monotonic() > until:
                raise UpError(f"The service is not ready after {timeout:g} seconds. See {self.settings.home / 'logs'}.")
        self._raise_failure()
        if self.pack and self.settings.import_starter and not supervisor.stopping:
            with self.client() as client:
                self.pack.imported(client, lambda line: self._say("shoal", line))
        return not supervisor.stopping

    def wait(self) -> None:
        """Wait until everything is stopped; ``UpError`` if that was not asked for."""
        while not self._running().ended.wait(0.5):
            pass
        self._raise_failure()

    def ask_stop(self, *, kill: bool = False) -> None:
        """Begin to stop, in order or (``kill``) at once, without waiting: what a signal handler may call."""
        if self._supervisor:
            self._supervisor.ask_stop(kill=kill)

    def stop(self) -> None:
        """Stop everything, the service first; returns when no process is left. Repeatable."""
        if self._supervisor and self._supervisor.ident is not None:
            self._supervisor.ask_stop()
            self._supervisor.join()
        if self._lock:
            self._lock.close()
            self._lock = None
        for log in self._logs.values():
            for handler in list(log.handlers):
                handler.close()
                log.removeHandler(handler)
        self._logs.clear()

    @property
    def processes(self) -> dict[str, int]:
        """The process ids by name, of those that run."""
        children = self._running().children
        return {name: child.pid for name, child in children.items() if child.running and child.pid is not None}

    @property
    def started(self) -> bool:
        """Whether every check has passed, so that there is something to stop."""
        return self._supervisor is not None

    @property
    def stopping(self) -> bool:
        return self._running().stopping

    def kill(self, name: str, number: int) -> None:
        """Send a signal to one process, as an accident would. It is started again."""
        self._running().kill(name, number)

    def client(self) -> Client:
        """A client of this Shoal, with its admin key."""
        key = self.settings.api_key
        return Client(self.url, api_key=key.get_secret_value() if key else None)

    def _running(self) -> Supervisor:
        if not self._supervisor:
            raise UpError("Shoal is not started.")
        return self._supervisor

    def _raise_failure(self) -> None:
        supervisor = self._running()
        if supervisor.failure:
            logs = self.settings.home / "logs"
            error = UpError(f"Everything was stopped: {supervisor.failure} Logs: {logs}.", lines=supervisor.last_lines)
            raise error

    def _take_home(self) -> None:
        """One `shoal up` a home: a lock that the kernel lets go of however this process ends."""
        home = self.settings.home
        try:
            home.mkdir(parents=True, exist_ok=True)
            (home / "logs").mkdir(exist_ok=True)
            lock = (home / "up.lock").open("a+", encoding="utf-8")
        except OSError as error:
            raise UpError(f"{home} cannot be written ({error.strerror}). Use another --home.") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            pid = lock.read().strip() or "unknown"
            lock.close()
            raise UpError(
                f"{home} is in use by `shoal up`, process {pid}. Stop that one, or use another --home and --port."
            ) from error
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        self._lock = lock

    def _prepare(self) -> Supervisor:
        """Every check that can refuse, before anything is started."""
        settings = self.settings
        if left := leftovers.clean(settings.home):
            self._say("shoal", f"ended what an earlier `shoal up` had left: {', '.join(left)}")
        specs = self._table(settings)
        _check_installed(specs)
        _check_port(settings.host, settings.port)
        base = settings.base
        if base is None:
            self.pack = StarterPack.found()
            base = str(self.pack.base)
        if settings.redis_url:
            if not redis_server.answers(settings.redis_url):
                where = redis_server.without_password(settings.redis_url)
                raise UpError(
                    f"The Redis at {where} does not answer. Start it; without SHOAL_REDIS_URL one is started here."
                )
            for warning in redis_server.warnings(settings.redis_url):
                self._say("shoal", f"WARNING: {warning}")
        else:
            server = redis_server.RedisServer.configured(settings.home)
            self.redis_url, specs = server.url, [server.spec, *specs]
        identity = secrets.token_hex(8)
        return Supervisor(
            specs,
            identity=identity,
            environment=processes.environment(settings, base=base, redis_url=self.redis_url),
            home=settings.home,
            settled=lambda: redis_server.answers(self.redis_url, timeout=1.0),
            probe=self._probe,
            say=self._say,
            record={"id": identity, "pid": os.getpid(), "url": self.url, "redis_url": self.redis_url},
        )

    def _probe(self) -> bool:
        with self.client() as client:
            return client.ready()

    def _say(self, name: str, line: str) -> None:
        if name not in self._logs:
            # Not in logging's registry: two Ups of one process keep apart, and no handler of the caller's sees it.
            log = logging.Logger(name)
            path = self.settings.home / "logs" / f"{name}.log"
            handler = RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=1, encoding="utf-8", delay=True)
            json = self.settings.log_format == "json"
            handler.setFormatter(_JsonLines() if json else logging.Formatter("%(asctime)s %(message)s"))
            log.addHandler(handler)
            log = self._logs.setdefault(name, log)
        self._logs[name].info("%s", line)
        if self._echo:
            self._echo(name, line)


class _JsonLines(JsonFormatter):
    """Lines of processes that write JSON as they are; Redis's and our own become JSON here."""

    def format(self, record: logging.LogRecord) -> str:
        line = record.getMessage()
        return line if line.startswith("{") else super().format(record)


def _check_installed(specs: list[ProcessSpec]) -> None:
    missing = sorted({module for spec in specs for module in spec.needs if importlib.util.find_spec(module) is None})
    if missing:
        raise UpError(
            f"`shoal up` needs more than the client that is installed (missing: {', '.join(missing)}). "
            "Install it: pip install 'shoal[cpu]', or 'shoal[gpu]' where there is a GPU."
        )


def _check_port(host: str, port: int) -> None:
    try:
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(address[0], address[1]) as link:
            link.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            link.bind(address[4])
    except OSError as error:
        raise UpError(
            f"{host}:{port} cannot be used ({error.strerror or error}). Choose another port, such as --port {port + 1}."
        ) from error
