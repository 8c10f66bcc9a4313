"""``shoal artifacts check`` and ``shoal gc``: the place for weights."""

from __future__ import annotations

from typing import Annotated

import typer

from shoal.cli import output
from shoal.cli.options import ApiKey, Json, Url, connect

app = typer.Typer(no_args_is_help=True, help="Look after the place where weights lie.")


@app.command()
def check(url: Url = None, api_key: ApiKey = None, json: Json = False) -> None:
    """Read every byte that a version or a run names. Exit code 1 where one cannot be served."""
    with connect(url, api_key) as client:
        answer = client.check_artifacts()
    if json:
        output.print_json(answer)
    else:
        rows = [(found["state"], found["digest"], ", ".join(found["named_by"])) for found in answer["findings"]]
        output.table(("state", "digest", "named by"), rows, f"All {answer['checked']} artifacts are whole.")
        if rows:
            output.say("Import the same weights again, or restore them from a backup: they get the same digest.")
    if answer["findings"]:
        raise typer.Exit(1)


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, delete nothing.")] = False,
    url: Url = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> None:
    """Delete the bytes that no record names; what arrived within a day stays."""
    with connect(url, api_key) as client:
        answer = client.collect_garbage(dry_run=dry_run)
    if json:
        output.print_json(answer)
        return
    rows = [(each["what"], output.size_of(each["size"])) for each in answer["collected"]]
    output.table(("what", "size"), rows, "Nothing to delete: a record names everything, or it is young.")
    if rows:
        done = "would be" if dry_run else "were"
        output.say(f"{len(rows)} {done} deleted, {output.size_of(answer['bytes'])}; {answer['young']} are too young.")
