"""How a bench of a running Shoal ends: its figures printed as a table, written as JSON, and the exit code."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NoReturn

Figures = dict[str, Any]


def conclude(
    where: dict[str, Any], figures: Figures, *, met: bool | None, json_file: Path | None, rows: Figures | None = None
) -> NoReturn:
    """Print ``figures`` and ``met``, write them beside ``machine()``'s ``where``, exit 1 where a bar is not met.

    ``met`` None: too little was measured to say. ``rows``: what is written and not printed.
    """
    figures = {**figures, "met": met}
    print("| figure | value |\n|---|---|")
    print("\n".join(f"| `{name}` | {figure} |" for name, figure in figures.items()))
    if json_file:
        json_file.write_text(json.dumps({"machine": where, **figures, **(rows or {})}, indent=2) + "\n")
    sys.exit(1 if met is False else 0)
