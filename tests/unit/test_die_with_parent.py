"""A child that asked for it dies with its parent, whatever kills that one; who was started by a person does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from service.engines import die_with_parent

CHILD = (
    "from service.engines.die_with_parent import {call}; {then}; import time; print('up', flush=True); time.sleep(60)"
)
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, text=True)
assert child.stdout.readline() == "up\\n"
print(child.pid, flush=True)
time.sleep(60)
"""
SPAWNER = """
import multiprocessing, time
from service.engines.die_with_parent import register

def work(started):
    register()
    started.set()
    time.sleep(60)

if __name__ == "__main__":
    spawn = multiprocessing.get_context("spawn")
    started = spawn.Event()
    child = spawn.Process(target=work, args=(started,))
    child.start()
    started.wait()
    print(child.pid, flush=True)
    time.sleep(60)
"""

STOPPER = """
import atexit, multiprocessing, os, signal, sys, time
from service.engines import die_with_parent

def core(started):
    def ends(number, frame):
        raise SystemExit
    signal.signal(signal.SIGTERM, ends)
    atexit.register(time.sleep, 3600)  # as slow as an interpreter that takes torch apart, and slower
    die_with_parent.register()
    os.kill(os.getpid(), signal.SIGTERM)  # not for the core: the service alone stops it
    started.set()
    time.sleep(3600)

def worker():
    atexit.register(time.sleep, 3600)
    die_with_parent.register()

if __name__ == "__main__":
    spawn = multiprocessing.get_context("spawn")
    started = spawn.Event()
    children = [
        spawn.Process(target=core, args=(started,), name="EngineCore", daemon=False),
        spawn.Process(target=worker, name="VllmWorker-0"),
    ]
    for child in children:
        child.start()
    started.wait()
    die_with_parent.stop_engines(within=120)
    children[1].join(120)
    print([child.exitcode for child in children], flush=True)
    os._exit(0)
"""

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone_within(pid: int, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.02)
    return not alive(pid)


def kill_parent_of(command: list[str]) -> int:
    """Start a parent that prints its child's id, kill -9 the parent, return the child's id."""
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    return child


@linux_only
def test_a_process_that_asked_dies_with_its_parent() -> None:
    child = kill_parent_of(
        [sys.executable, "-c", PARENT, CHILD.format(call="die_with_parent", then="die_with_parent()")]
    )
    assert gone_within(child, 5)


@linux_only
def test_a_process_of_multiprocessing_dies_with_its_parent(tmp_path: Path) -> None:
    script = tmp_path / "spawner.py"  # a file: spawn imports the parent's main module
    script.write_text(SPAWNER)
    assert gone_within(kill_parent_of([sys.executable, str(script)]), 5)


@linux_only
def test_a_process_that_a_person_started_outlives_its_shell() -> None:
    """The entry point is loaded by every vLLM in this environment, also by one started with nohup."""
    child = kill_parent_of([sys.executable, "-c", PARENT, CHILD.format(call="register", then="register()")])
    try:
        assert not gone_within(child, 0.3)
    finally:
        os.kill(child, signal.SIGKILL)


@linux_only
def test_a_process_whose_parent_has_died_already_ends_at_once() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", CHILD.format(call="die_with_parent", then="die_with_parent(parent=1 << 21)")],
        check=False,
        timeout=20,
    )
    assert ended.returncode == -signal.SIGKILL


@linux_only
def test_an_engine_that_is_told_to_end_leaves_without_taking_itself_apart(tmp_path: Path) -> None:
    """The core and its worker end by themselves, in order, whatever their interpreters would still have had to do."""
    script = tmp_path / "stopper.py"
    script.write_text(STOPPER)
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd()), die_with_parent.KEEPS_ON: "1"}
    ended = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=250, env=environment
    )
    assert ended.stdout == "[0, 0]\n", ended.stderr


def test_elsewhere_than_on_linux_nothing_is_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(die_with_parent.sys, "platform", "darwin")
    assert die_with_parent.die_with_parent() is False
