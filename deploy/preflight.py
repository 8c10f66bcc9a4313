"""What must be there before anything is installed; says what to do where it is not. Runs on any Python 3."""

import shutil
import sys

MIN, BELOW = (3, 11), (3, 14)


def problems():
    """Yield (fatal, sentence) for whatever would make the install fail later and less clearly."""
    if not MIN <= sys.version_info[:2] < BELOW:
        yield (
            True,
            "Shoal needs Python 3.11, 3.12 or 3.13; this is {}.{}. "
            "Choose another with `make install PYTHON=python3.11`.".format(*sys.version_info[:2]),
        )
    if not sys.platform.startswith("linux"):
        yield True, "Shoal runs on Linux (vLLM's CPU wheel does); on another system use `docker compose up`."
    try:
        import ensurepip  # noqa: F401
    except ImportError:
        yield True, "This Python has no venv module. On Debian or Ubuntu: `sudo apt-get install python3-venv`."
    if not (shutil.which("gcc") or shutil.which("cc") or shutil.which("clang")):
        yield (
            False,
            "No C compiler found. The starter pack does not need one, but vLLM compiles kernels for some models: "
            "`sudo apt-get install gcc g++` (Debian, Ubuntu) if a model asks for it.",
        )
    if shutil.disk_usage(".").free < 6 * 2**30:
        yield (
            True,
            "The install needs about 6 GiB of disk here, {:.1f} GiB are free.".format(
                shutil.disk_usage(".").free / 2**30
            ),
        )


if __name__ == "__main__":
    found = list(problems())
    for fatal, sentence in found:
        print(("error: " if fatal else "note: ") + sentence, file=sys.stderr)
    sys.exit(any(fatal for fatal, _ in found))
