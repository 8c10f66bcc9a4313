"""`shoal backup` and `shoal restore`: find Redis and the weights of a home, call, print."""

from __future__ import annotations

import getpass
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from registry.errors import RegistryDown

if TYPE_CHECKING:
    from registry.backup_file import Manifest
    from registry.registry import Registry

backup_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
restore_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

File = Annotated[Path, typer.Argument(metavar="FILE", help="The backup, a tar.")]
Home = Annotated[Path, typer.Option("--home", envvar="SHOAL_HOME", help="The home of `shoal up`.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
_HERE = Path(".shoal")


@backup_app.command()
def backup(
    file: File,
    home: Home = _HERE,
    allow_damaged: Annotated[
        bool, typer.Option("--allow-damaged", help="Leave out weights that are gone or damaged already.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write everything that Redis and the place for weights keep into FILE, beside a running Shoal or without one.

    It holds prompts, answers and feedback, so only you may read it.
    """
    from registry.backup import back_up

    with _registry(home) as registry, _bar() as tell:
        manifest = back_up(registry, file, allow_damaged=allow_damaged, tell=tell)
    _print(as_json, f"{file}: {_told(manifest)}.", _counted(manifest))
    if manifest.damaged and not as_json:
        _console(stderr=True).print(Text(f"Left out, gone or damaged: {', '.join(manifest.damaged)}", style="yellow"))


@restore_app.command()
def restore(
    file: File,
    home: Home = _HERE,
    into_existing: Annotated[bool, typer.Option("--into-existing", help="Replace the records that are there.")] = False,
    accept_older: Annotated[
        bool, typer.Option("--accept-older", help="Go back behind what is known, with an event for each adapter.")
    ] = False,
    reason: Annotated[str, typer.Option(help="Why; it stands in those events.")] = "",
    check: Annotated[bool, typer.Option("--check", help="Read every byte of FILE and change nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make records and weights as FILE has them. Every byte is checked first; what is newer is not lost silently."""
    from registry import restore as restoring
    from registry.text import a_reason

    if check:
        with _bar() as tell:
            manifest = restoring.check(file, tell)
        _print(as_json, f"{file} is whole: {_told(manifest)}.", _counted(manifest))
        return
    a_reason(reason)
    with _registry(home) as registry, _bar() as tell:
        done = restoring.restore(
            registry,
            file,
            by=_who(),
            reason=reason,
            into_existing=into_existing,
            accept_older=accept_older,
            tell=tell,
        )
    value = _counted(done.manifest) | {
        "accepted": [json.loads(rollout.model_dump_json()) for rollout in done.accepted],
        "keys_kept": done.keys_kept,
    }
    _print(as_json, f"Restored from {file}: {_told(done.manifest)}.", value)
    if as_json:
        return
    for rollout in done.accepted:
        _print(
            False, f"{rollout.adapter} went back and is at revision {rollout.revision} now; its history says so.", {}
        )
    if done.keys_kept:
        _print(False, "The API keys that were there stay as they are; the backup's were left alone.", {})


@contextmanager
def _registry(home: Path) -> Iterator[Registry]:
    """The registry of a home, or of the ``SHOAL_*`` variables, which go first."""
    from registry.registry import Registry
    from registry.settings import RegistrySettings

    given: dict[str, Any] = {}
    if not os.environ.get("SHOAL_REDIS_URL") and (found := redis_of(home)):
        given["redis_url"] = found
    if not os.environ.get("SHOAL_ARTIFACTS_URL"):
        given["artifacts_url"] = str(home.absolute() / "artifacts")
    if not os.environ.get("SHOAL_CACHE_DIR"):
        given["cache_dir"] = str(home.absolute() / "cache")
    registry = Registry.open(RegistrySettings.load(**given))
    try:
        registry.ping()
        yield registry
    except RegistryDown as error:
        raise RegistryDown(
            f"{str(error).partition(': ')[2].partition('. Try')[0]}. Start it (`redis-server {home}/redis/redis.conf` "
            "starts the one of `shoal up` alone: end it before the next `shoal up`), or name another in SHOAL_REDIS_URL"
        ) from error
    finally:
        registry.close()


def redis_of(home: Path) -> str | None:
    """The Redis that `shoal up` runs under a home, or that its last configuration would start: both have the password."""
    try:
        url = json.loads((home / "up.json").read_text(encoding="utf-8"))["redis_url"]
        return str(url) if url else None
    except (OSError, ValueError, KeyError, TypeError):
        pass
    try:
        config = (home / "redis" / "redis.conf").read_text(encoding="utf-8")
    except OSError:
        return None
    port, password = re.search(r"^port (\d+)$", config, re.M), re.search(r'^requirepass "(.+)"$', config, re.M)
    return f"redis://:{password[1]}@127.0.0.1:{port[1]}/0" if port and password else None


def _who() -> str:
    try:
        return f"{getpass.getuser()} (shoal restore)"
    except (KeyError, OSError):
        return "shoal restore"


def _counted(manifest: Manifest) -> dict[str, Any]:
    fields = manifest.model_dump(mode="json", exclude={"sha256", "artifacts"})
    return {key: fields[key] for key in ("created_at", "namespace", "schema_number", "counts", "revisions", "damaged")}


def _told(manifest: Manifest) -> str:
    counts = ", ".join(f"{number} {noun}" for noun, number in manifest.counts.items())
    return f"{counts}, of {manifest.created_at:%Y-%m-%d %H:%M:%S} UTC"


def _print(as_json: bool, line: str, value: dict[str, Any]) -> None:
    if as_json:
        sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    else:
        _console().print(Text(line))


def _console(*, stderr: bool = False) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, soft_wrap=True, width=None if stream.isatty() else 1000)


@contextmanager
def _bar() -> Iterator[Any]:
    """A line that moves, gone at the end: the step and how far it is."""
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    with Progress(*columns, console=_console(stderr=True), transient=True) as drawn:
        task = drawn.add_task("", total=None)

        def tell(step: str, done: int, total: int) -> None:
            drawn.update(task, description=step, completed=done, total=total or None)

        yield tell
