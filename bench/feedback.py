"""Feedback: what it is worth, and whether it is kept.

python -m bench.feedback ...            ``bench.feedback_utility``: does a higher utility mean better answers, what does poison do
python -m bench.feedback --ingest ...   ``bench.ingest``: a hundred thousand items, two kill -9 of Redis, none lost, none twice

Each takes ``--quick`` and ``--json FILE``.
"""

from __future__ import annotations

import sys
from importlib import import_module

import typer

INGEST = "--ingest"


def part(words: list[str]) -> tuple[str, list[str]]:
    """The module that does what the words ask for, and the words that are left for it."""
    if INGEST in words:
        return "bench.ingest", [word for word in words if word != INGEST]
    return "bench.feedback_utility", words


if __name__ == "__main__":
    module, sys.argv[1:] = part(sys.argv[1:])
    typer.run(import_module(module).main)
