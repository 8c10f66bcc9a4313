"""No process outlives the one it works for, whatever kills that one.

``kill -9`` of a service worker gives it no chance to stop its engine: the engine's processes would go on, hold their
memory, and a second engine would be started beside them. The kernel can end a child with its parent
(``man 2 prctl``, PR_SET_PDEATHSIG), if the child asks for it itself. The service asks at its own start
(``die_with_parent``); vLLM's processes are asked by ``register``, a ``vllm.general_plugins`` entry point.

A stop, on the other hand, is the service's to give. BentoML's supervisor sends SIGTERM to the worker *and* to its
children, and vLLM's core would break off every answer at once: in the service it takes ``ENGINE_STOP`` instead.
Told to end, these processes leave as soon as vLLM has let go of what it holds: taking torch apart, object by object, took
the worker longer than the five seconds that its core waits for it, and the core as long again (docs/log.md).

The signal fires when the *thread* that started the child ends, so engines are started from a thread that lives as
long as they should: the main thread, where the event loop runs.
"""

from __future__ import annotations

import atexit
import ctypes
import multiprocessing
import os
import signal
import sys
import time
from types import FrameType

from registry import logs

PR_SET_PDEATHSIG = 1  # linux/prctl.h
ENGINE_STOP = signal.SIGUSR2
KEEPS_ON = "SHOAL_ENGINE_KEEPS_ON"  # in the environment of an engine that only its service may stop


def die_with_parent(parent: int | None = None) -> bool:
    """Have the kernel end this process when the one that started it ends; False where the kernel cannot (not Linux).

    ``parent`` is the process id that the parent ought to have: if it has died before the kernel was asked, this
    process ends at once. Safe to repeat.
    """
    if not sys.platform.startswith("linux"):
        return False
    before = os.getppid() if parent is None else parent
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        return False
    if os.getppid() != before:
        os.kill(os.getpid(), signal.SIGKILL)
    return True


def register() -> None:
    """Called by vLLM in each of its processes: its children die with their parent, and log as their parent does.

    Only children of ``multiprocessing``: a process that a person or a supervisor started may well outlive its shell.
    """
    if parent := multiprocessing.parent_process():
        die_with_parent(parent.pid)
        if logs.configure():
            logs.name_process(process=multiprocessing.current_process().name)
        name = multiprocessing.current_process().name
        if os.environ.get(KEEPS_ON) and name.startswith("EngineCore"):
            _stop_by_service_alone()
        if os.environ.get(KEEPS_ON) and name.startswith("VllmWorker"):
            _leave_at_once()  # a worker ends only when it is told to, or after it has told its core of a failure


def stop_engines(within: float = 5.0) -> None:
    """Ask the engine cores that this process started to end, and wait for them; those that do not are the caller's."""
    cores = [child for child in multiprocessing.active_children() if child.name.startswith("EngineCore")]
    for core in cores:
        if core.pid is not None and core.is_alive():
            os.kill(core.pid, ENGINE_STOP)
    until = time.monotonic() + within
    for core in cores:
        core.join(max(0.0, until - time.monotonic()))


def _stop_by_service_alone() -> None:
    """vLLM's own handler, which it has set by now, moves to another signal."""
    handler = signal.getsignal(signal.SIGTERM)
    if callable(handler):

        def stop(number: int, frame: FrameType | None) -> None:
            _leave_at_once()
            handler(number, frame)

        signal.signal(ENGINE_STOP, stop)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)


def _leave_at_once() -> None:
    """When this process comes to its end it does not take itself apart. Its output is flushed by then."""
    atexit.register(os._exit, 0)
