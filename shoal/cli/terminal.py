"""``shoal up`` in a terminal: a line of every process with its name before it, and Ctrl-C."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

from rich.console import Console
from rich.text import Text

from registry.errors import ShoalError
from shoal.cli import output
from shoal.processes import processes
from shoal.settings import UpSettings
from shoal.up import Table, Up

COLOURS = {
    "shoal": "bold white",
    "redis": "red",
    "control": "magenta",
    "score": "yellow",
    "beat": "blue",
    "service": "green",
}
NAME_WIDTH = max(map(len, COLOURS))
TICK = "shoal.tick"  # a task every few seconds, five lines each: in the logs, not on the terminal


class Lines:
    """Prints one line at a time, also from several threads (rich's console locks)."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __call__(self, name: str, line: str, style: str = "") -> None:
        if TICK in line:
            return
        prefix = (f"{name:<{NAME_WIDTH}} | ", COLOURS.get(name, "cyan"))
        self._console.print(Text.assemble(prefix, (line, style)), soft_wrap=True)


def serve(settings: UpSettings, table: Table = processes) -> None:
    """Run until a signal or a failure ends it. The first signal stops in order, the second at once."""
    lines = Lines(output.console())
    up = Up(settings, echo=lines, table=table)

    def on_signal(number: int, frame: FrameType | None) -> None:
        again = up.started and up.stopping
        if not again:
            lines("shoal", "stopping; once more to kill")
        up.ask_stop(kill=again)
        if not up.started:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        with up:
            lines("shoal", f"starting; state and logs: {settings.home}")
            if _ready(up, lines):
                lines("shoal", f"ready: {up.url} ({_answering(up)})", "bold green")
                _next_step(up, lines)
            up.wait()
        lines("shoal", "stopped")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ready(up: Up, lines: Lines) -> bool:
    """A starter pack that cannot be imported is told; what runs goes on."""
    try:
        return up.wait_ready()
    except ShoalError as error:
        if up.stopping:
            return False
        lines("shoal", f"the starter pack was not imported: {error.message}", "bold red")
        return True


def _answering(up: Up) -> str:
    try:
        with up.client() as client:
            told = [f"{one['name']} -> {_place(one)}" for one in client.adapters()]
    except ShoalError as error:
        return error.message
    return ", ".join(told[:5]) + (f", and {len(told) - 5} more" if len(told) > 5 else "") or "no adapter yet"


def _place(adapter: dict[str, Any]) -> str:
    champion = adapter["rollout"].get("champion")
    return "no version" if champion is None else f"version {champion}"


def _next_step(up: Up, lines: Lines) -> None:
    if up.pack:
        lines("shoal", f"next: shoal adapters; shoal feedback --help; shoal adapt {up.pack.adapter}")
    else:
        lines("shoal", "next: shoal import NAME DIR")
