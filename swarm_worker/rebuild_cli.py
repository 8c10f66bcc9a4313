"""`shoal rebuild`: parse, rebuild, print."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from registry.errors import BadInput
from swarm_worker.offline.console import open_console

if TYPE_CHECKING:
    from swarm_worker.rebuild import Rebuilt
    from swarm_worker.versions_api import VersionsApi

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

Model = Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="Without a version: the champion.")]
To = Annotated[Path | None, typer.Option("--to", metavar="DIR", help="Keep what was built, as a PEFT folder.")]
Url = Annotated[
    str | None, typer.Option("--url", envvar="SHOAL_URL", help="Where Shoal answers; default http://127.0.0.1:3000.")
]
ApiKey = Annotated[
    str | None, typer.Option("--api-key", envvar="SHOAL_API_KEY", help="The key, where the service wants one.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.command()
def rebuild(model: Model, to: To = None, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Make a version's bytes again from its lineage, and say whether they are the same.

    Exit code 0 for the same bytes, and where every entry of each module's dW = B A is within 1e-5; else 1.
    """
    with open_console(stderr=True).status(f"rebuilding {model}"), scratch_beside(to) as scratch:
        from swarm_worker.rebuild import rebuild as build
        from swarm_worker.versions_api import VersionsApi

        with VersionsApi(url, api_key) as versions:
            name, number = resolved(versions, model)
            rebuilt = build(versions, name, number, scratch)
        if to is not None:
            rebuilt.folder.replace(to)
    if as_json:
        value = rebuilt.to_json() | {"folder": str(to) if to else None}
        sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    failed = rebuilt.outcome == "different"
    if failed or not as_json:
        console = open_console(stderr=failed)
        console.print(Text(told(rebuilt), style="bold red" if failed else ""))
        if to is not None and not failed:
            console.print(Text(f"It is in {to}."))
    if failed:
        raise typer.Exit(1)


@contextmanager
def scratch_beside(to: Path | None) -> Iterator[Path]:
    """A folder to build in: beside the one that is kept, so that what was built moves there in one step."""
    if to is not None and to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise BadInput(f"--to {to} is not empty. Give a new folder: nothing is overwritten.", field="to")
    try:
        if to is not None:
            to.absolute().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".shoal-rebuild-", dir=to and to.absolute().parent) as scratch:
            yield Path(scratch)
    except OSError as error:
        where = to or tempfile.gettempdir()
        raise BadInput(
            f"{where} cannot be written: {error.strerror or error}. Another folder: --to.", field="to"
        ) from error


def resolved(versions: VersionsApi, model: str) -> tuple[str, int]:
    """``support-bot@7``, ``support-bot@challenger`` or ``support-bot`` as a name and a number."""
    name, at, place = model.partition("@")
    if not name or (at and not place):
        raise BadInput(f"'{model}' is not NAME or NAME@VERSION, such as support-bot@7.", field="model")
    if place.isdecimal():
        return name, int(place)
    if place not in ("", "champion", "challenger"):
        raise BadInput(f"'{place}' is not a version: give a number, 'champion' or 'challenger'.", field="model")
    return name, versions.champion(name, place or "champion")


def told(rebuilt: Rebuilt) -> str:
    """The result as one sentence or two."""
    name, digest = rebuilt.version.engine_name, rebuilt.version.digest
    if rebuilt.outcome == "import":
        return f"{name} is an import, no mix: there is nothing to rebuild. Its bytes are there and match {digest}."
    if rebuilt.outcome == "trained":
        return (
            f"{name} was trained, not mixed: the training is not repeated, its feedback may be gone. Its bytes are there and "
            f"match {digest}."
        )
    if rebuilt.outcome == "same" or rebuilt.difference is None:
        return f"{name}: the same bytes again, {digest}."
    found = rebuilt.difference
    where = f"the largest difference of dW is {found.largest:.3g}, in {found.module}, whose entries go up to {found.entry:.3g}"
    if rebuilt.outcome == "equal":
        return f"{name}: equal within 1e-5, not the same bytes; {where}. {_why(rebuilt)}"
    return f"{name} is not what its lineage makes: {where}. {_why(rebuilt)}"


def _why(rebuilt: Rebuilt) -> str:
    """What is different here from where the version was made."""
    recorded = rebuilt.version.lineage.environment if rebuilt.version.lineage else None
    if recorded is None:
        return "Where it was made is not recorded."
    before, after = recorded.model_dump(), rebuilt.environment.model_dump()
    changed = [f"{key} was {before[key]}, here {after[key]}" for key in before if before[key] != after[key]]
    return (
        f"It was made elsewhere: {'; '.join(changed)}." if changed else "It was made where torch and CPU are as here."
    )


if __name__ == "__main__":
    from registry.errors import ShoalError

    try:
        app(prog_name="shoal rebuild")
    except ShoalError as problem:
        open_console(stderr=True).print(Text(problem.message, style="bold red"))
        sys.exit(1)
