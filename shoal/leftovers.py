"""What a killed `shoal up` left behind: found by what it wrote down, ended before the next start.

The kernel ends the processes that `shoal up` started when it is killed (``shoal.launch``), but not *their* children.
So every process of one ``up`` carries a mark in its environment, which children inherit, and HOME/up.json names the
mark and the processes with the time each was started: a process id alone may be somebody else's by now. A process that
writes its title over its environment loses the mark, so children of marked processes and the members of their sessions
count as well. Linux only.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from shoal.processes import MARK

GRACE_SECONDS = 3.0


def started_at(pid: int) -> str | None:
    """When a process was started, in the kernel's ticks; None if there is none. With the pid it names one process."""
    fields = _stat(pid)
    return None if fields is None or fields[0] == "Z" else fields[19]


def marked(mark: str) -> list[int]:
    """The processes of this user whose environment has ``SHOAL_UP_ID=mark...``, and whatever is below them or in a session
    with one of them; never this one, nor its own session."""
    wanted, found = f"{MARK}={mark}".encode(), set[int]()
    parent, session = dict[int, int](), dict[int, int]()
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        fields = _stat(pid)
        if fields is None or fields[0] == "Z":
            continue
        parent[pid], session[pid] = int(fields[1]), int(fields[3])
        with contextlib.suppress(OSError):
            environ = (folder / "environ").read_bytes()
            if environ.startswith(wanted) or b"\0" + wanted in environ:
                found.add(pid)
    kept, common = {os.getpid()}, {os.getsid(0), 0}  # 0: the session of whoever is outside our pid namespace
    found -= kept
    while True:
        sessions = {session[pid] for pid in found} - common
        more = {pid for pid in parent if parent[pid] in found or session[pid] in sessions} - found - kept
        if not more:
            return sorted(found)
        found |= more


def _stat(pid: int) -> list[str] | None:
    """/proc/PID/stat from its third field, the state, on (man 5 proc): the second, the name, may hold spaces and brackets."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None


def sweep(mark: str) -> int:
    """Kill every process that carries ``mark``; how many there were."""
    swept = 0
    # A process may start another while it is looked for, so look until none is found.
    for _ in range(5):
        pids = marked(mark)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if not pids:
            break
        swept += len(pids)
        time.sleep(0.05)
    return swept


def write(home: Path, record: dict[str, Any]) -> None:
    """HOME/up.json, replaced as a whole; readable by its owner alone, as the Redis URL in it has a password."""
    arriving = home / "up.json.new"
    arriving.unlink(missing_ok=True)
    arriving.touch(mode=0o600)
    arriving.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    arriving.replace(home / "up.json")


def forget(home: Path) -> None:
    (home / "up.json").unlink(missing_ok=True)


def clean(home: Path) -> list[str]:
    """End what the last `shoal up` of this home left running; the names of what was left.

    Call it under the home's lock.
    """
    try:
        record = json.loads((home / "up.json").read_text(encoding="utf-8"))
        mark = f"{record['id']}:"
        processes = {str(name): (int(one["pid"]), one["start"]) for name, one in record["processes"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    left = {name: (pid, start) for name, (pid, start) in processes.items() if start and started_at(pid) == start}
    for pid, _ in left.values():
        signal_group(pid, signal.SIGTERM, leads=True)
    until = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < until and any(started_at(pid) == start for pid, start in left.values()):
        time.sleep(0.05)
    strays = 0
    for pid, start in processes.values():
        strays += signal_group(pid, signal.SIGKILL, leads=bool(start) and started_at(pid) == start)
    strays += sweep(mark)
    forget(home)
    return list(left) or (["children of processes that are gone"] if strays else [])


def signal_group(pid: int, number: int, *, leads: bool) -> bool:
    """Signal the group that the process ``pid`` leads or led (``shoal.child`` makes one each); whether there was one.

    ``leads``: the process is known to be ours and there. If it is gone its group may live on, under an id that nobody
    else gets as long as it does; a process that has the id now means that it was given away, and nothing is sent.
    """
    if not leads and started_at(pid) is not None:
        return False
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
        return True
    return False
