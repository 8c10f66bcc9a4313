"""``shoal guard``: suites that a new version may not be worse at."""

from __future__ import annotations

import json as json_of
from pathlib import Path
from typing import Annotated, Any

import typer

from shoal.cli import output
from shoal.cli.options import ApiKey, Json, Name, Url, connect
from shoal.errors import LocalProblem

app = typer.Typer(help="List, add, show or remove the suites that a policy's guards name.", rich_markup_mode="markdown")
SuiteName = Annotated[str, typer.Argument(metavar="SUITE", help="The suite's name.", show_default=False)]


@app.command("list")
def list_(name: Name, url: Url = None, api_key: ApiKey = None, json: Json = False) -> None:
    """List the suites of an adapter; a tolerance where the policy makes a guard of one."""
    with connect(url, api_key) as client:
        guards = client.guards(name)
    if json:
        output.print_json({"guards": guards})
        return
    rows = [
        (
            guard["name"],
            guard.get("utility") or guard["kind"],
            guard["items"],
            "not a guard" if guard.get("tolerance") is None else guard["tolerance"],
            guard["least_tolerance"],
            output.time_of(guard["added_at"]),
            guard["added_by"],
            guard["digest"].removeprefix("sha256:")[:12],
        )
        for guard in guards
    ]
    columns = ("suite", "kind", "items", "tolerance", "at least", "added (UTC)", "by", "digest")
    output.table(columns, rows, f"No suite yet. Add one: shoal guard add {name} SUITE FILE")


@app.command()
def add(
    name: Name,
    suite: SuiteName,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The suite as JSON, or its items as JSONL.", show_default=False)
    ],
    utility: Annotated[
        str | None,
        typer.Option(help="Of JSONL with right answers: exact_match, multiple_choice, numeric.", show_default=False),
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> None:
    """Add a suite, or give its name to other items.

    JSONL is one item a line: with --utility a task, where each has `good`; without it a refusal suite, where each
    has `refuse`. A format suite is JSON: `{"kind": "format", "form": {"json": "object"}, "items": [...]}`.
    """
    whole = _read(file, utility)
    with connect(url, api_key) as client:
        told = client.put_guard(name, suite, whole)
    if json:
        output.print_json(told)
        return
    guard = told["guard"]
    state = "is" if told["new"] else "was already"
    output.say(
        f"'{guard['name']}' {state} a suite of {name}: {guard['items']} items, {guard['digest']}. "
        f"It can guard a tolerance above {guard['least_tolerance']:.3f}."
    )
    if guard.get("tolerance") is None:
        output.say("The policy does not name it yet: put it under 'guards', then shoal policy set.")


@app.command()
def show(name: Name, suite: SuiteName, url: Url = None, api_key: ApiKey = None, json: Json = False) -> None:
    """Show a suite with its items."""
    with connect(url, api_key) as client:
        told = client.guard(name, suite)
    if json:
        output.print_json(told)
        return
    output.figures(told["guard"], indent="")
    output.figures({key: value for key, value in told["suite"].items() if key != "schema_number"}, indent="")


@app.command()
def remove(name: Name, suite: SuiteName, url: Url = None, api_key: ApiKey = None, json: Json = False) -> None:
    """Forget a suite. Refused while the policy names it."""
    with connect(url, api_key) as client:
        told = client.remove_guard(name, suite)
    if json:
        output.print_json(told)
    else:
        output.say(f"'{suite}' is no suite of {name} any more.")


def _read(file: Path, utility: str | None) -> dict[str, Any]:
    """A suite as JSON, as it is; or the items of a JSONL file, under the kind that ``utility`` tells."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LocalProblem(f"{file} cannot be read: {error}") from error
    try:
        whole = json_of.loads(text)
    except ValueError:
        return _items(file, text, utility)
    if isinstance(whole, dict) and "items" in whole:
        if utility is not None:
            raise LocalProblem(f"{file} is a whole suite: write the utility into it, and leave --utility out.")
        return whole
    return _items(file, text, utility)


def _items(file: Path, text: str, utility: str | None) -> dict[str, Any]:
    items = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            items.append(json_of.loads(line))
        except ValueError as error:
            raise LocalProblem(f"{file}, line {number} is not JSON: {error}") from error
    if utility is None:
        return {"kind": "refusal", "items": items}
    return {"kind": "task", "utility": utility, "items": items}
