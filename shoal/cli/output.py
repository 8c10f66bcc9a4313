"""How the command prints: tables and colours for a terminal, plain lines for a pipe, JSON where it is asked for."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from registry.errors import ShoalError

PIPE_WIDTH = 1000  # a pipe has no width: nothing is wrapped or cut there


def console(*, stderr: bool = False) -> Console:
    """The terminal as it is now: made for each use, so that redirected streams are seen."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return Console(stderr=stderr, width=width, highlight=False, soft_wrap=not stream.isatty())


def say(*parts: str | tuple[str, str]) -> None:
    """One line; a part is text, or text with a style. What a user wrote is never read as markup."""
    console().print(Text.assemble(*parts))


def print_json(answer: Any) -> None:
    """Exactly what the service answered, for a program to read."""
    sys.stdout.write(json.dumps(answer, indent=2, ensure_ascii=False) + "\n")


def error(problem: ShoalError) -> None:
    """One red line on stderr that says what to do; the last lines of a process that failed follow it, plain."""
    err = console(stderr=True)
    err.print(Text(problem.message, style="bold red"))
    for line in problem.details.get("lines", []) if isinstance(problem.details.get("lines"), list) else []:
        err.print(Text(f"  {line}"))


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], empty: str) -> None:
    """Rows under a header; ``empty`` is said where there are none."""
    cells = [[shown(value) for value in row] for row in rows]
    if not cells:
        say(empty)
        return
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        drawn.add_column(column, overflow="fold")
    for row in cells:
        drawn.add_row(*(Text(cell) for cell in row))
    # Trailing spaces would make every piped line as wide as the table.
    out = console()
    if out.is_terminal:
        out.print(drawn)
        return
    with out.capture() as captured:
        out.print(drawn)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def figures(pairs: dict[str, Any], indent: str = "  ") -> None:
    """Names and values, one a line; a value within a value is indented below its name."""
    width = max((len(name) for name in pairs), default=0)
    for name, value in pairs.items():
        if isinstance(value, dict) and value:
            say(f"{indent}{name}")
            figures(value, indent + "  ")
        elif isinstance(value, list) and any(isinstance(one, dict) for one in value):
            say(f"{indent}{name}")
            for one in value:
                figures(one, indent + "  ") if isinstance(one, dict) else say(f"{indent}  {shown(one)}")
        else:
            say(f"{indent}{name:<{width}}  {shown(value)}")


def shown(value: Any) -> str:
    """A value for a person: nothing is a dash, a long float is four digits, a time is ``2026-11-23 18:57:10``."""
    if value is None or value in ("", [], {}):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(shown(one) for one in value)
    return str(value)


def time_of(stamp: str | None) -> str:
    """An ISO 8601 time in UTC to the second, as the registry's clock tells it."""
    try:
        return datetime.fromisoformat(stamp or "").astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
    except ValueError:
        return shown(stamp)


def size_of(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"


def percent(share: float) -> str:
    return f"{100 * share:.3g}%"
