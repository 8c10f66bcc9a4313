"""The ``shoal`` command."""

import sys


def main() -> None:
    """Parse, call, print. An old Python is told so before anything that it could not read is imported."""
    if sys.version_info < (3, 11):  # noqa: UP036  # pip checks it, a checkout on the PYTHONPATH does not
        sys.exit(f"Shoal needs Python 3.11 or later; this is {sys.version.split()[0]} ({sys.executable}).")
    from shoal.cli.app import run

    sys.exit(run(sys.argv[1:]))
