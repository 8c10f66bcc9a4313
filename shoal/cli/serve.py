"""``shoal up``, ``status`` and ``version``: Shoal itself."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path
from typing import Annotated, Any

import typer

from shoal.cli import output
from shoal.cli.options import ApiKey, Json, Url, connect
from shoal.errors import UpError


def up(
    base: Annotated[
        str | None,
        typer.Option(help="Your base model: a folder or a Hugging Face id.", show_default="the starter pack's"),
    ] = None,
    home: Annotated[Path | None, typer.Option(help="Where state and logs are kept.", show_default="./.shoal")] = None,
    port: Annotated[int | None, typer.Option(help="The port of the service.", show_default="3000")] = None,
    host: Annotated[
        str | None,
        typer.Option(help="Its address; any but loopback needs SHOAL_API_KEY.", show_default="127.0.0.1"),
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.", show_default="info")] = None,
) -> None:
    """Start Redis, the workers and the service on this machine, in this terminal. Ctrl-C stops all; state stays.

    Without --base the starter pack is served and its experts are imported. Each option has a variable (SHOAL_BASE,
    SHOAL_HOME, ...). A Redis of yours is used where SHOAL_REDIS_URL names it.
    """
    if sys.platform == "win32":
        raise UpError("`shoal up` needs Linux or macOS. On Windows use it in WSL, or docker compose.")
    from shoal.cli import terminal
    from shoal.settings import UpSettings

    given: dict[str, Any] = {"base": base, "home": home, "port": port, "host": host, "log_level": log_level}
    terminal.serve(UpSettings.load(**given))


def status(url: Url = None, api_key: ApiKey = None, json: Json = False) -> None:
    """Show the replicas, what each of them holds, the engine and Redis."""
    with connect(url, api_key) as client:
        answer = client.status()
    if json:
        output.print_json(answer)
    else:
        output.figures(answer, indent="")


def accept_registry(
    reason: Annotated[str, typer.Option(help="Why the older state is the right one; kept in the history.")],
    url: Url = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> None:
    """Go on from an older Redis that was brought back, deliberately, when no newer one can be."""
    with connect(url, api_key) as client:
        answer = client.accept_registry(reason)
    if json:
        output.print_json(answer)
    elif not answer["rollouts"]:
        output.say("Nothing went back: there is nothing to accept.")
    for rollout in [] if json else answer["rollouts"]:
        output.say(f"{rollout['adapter']} goes on from revision {rollout['revision']}, champion {rollout['champion']}")


def version(json: Json = False) -> None:
    """Print the version of this command, and of the Python that runs it."""
    try:
        number = installed("shoal")
    except PackageNotFoundError:
        number = "a checkout that is not installed"
    python = ".".join(map(str, sys.version_info[:3]))
    if json:
        output.print_json({"shoal": number, "python": python})
    else:
        output.say(f"shoal {number} (Python {python})")
