"""Where the commands print."""

from __future__ import annotations

import sys

from rich.console import Console

PIPE_WIDTH = 1000


def open_console(*, stderr: bool = False) -> Console:
    """A pipe has no width: nothing is wrapped or cut there."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, soft_wrap=True, width=None if stream.isatty() else PIPE_WIDTH)
