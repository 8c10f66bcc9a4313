"""``shoal policy``: what happens to an adapter by itself, and how its trials begin."""

from __future__ import annotations

import json as json_of
from pathlib import Path
from typing import Annotated, Any

import typer

from registry.canonical import canonical
from shoal.cli import output
from shoal.cli.options import ApiKey, Json, Name, OperationId, Reason, Revision, Url, connect, moving
from shoal.errors import LocalProblem

app = typer.Typer(help="Show or change what happens to an adapter by itself.", rich_markup_mode="markdown")


DURATIONS = frozenset({"adapt_every", "max_seconds", "last", "dwell", "longest", "keep_for"})
"""Fields that are seconds, and read better with a unit."""
_UNITS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))


@app.command()
def show(
    name: Name,
    yaml: Annotated[bool, typer.Option("--yaml", help="As a file that `shoal policy set` takes.")] = False,
    url: Url = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> None:
    """Show an adapter's policy; a dash leaves the field to the worker's setting."""
    with connect(url, api_key) as client:
        told = client.policy(name)
    if yaml:
        output.say(_to_yaml(_spelled(told["policy"])).rstrip())
    else:
        _print(told, json)


@app.command("set")
def set_(
    name: Name,
    file: Annotated[Path, typer.Option("--file", help="The whole policy, YAML or JSON.", show_default=False)],
    reason: Reason = "",
    expected_revision: Revision = None,
    operation_id: OperationId = None,
    url: Url = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> None:
    """Replace an adapter's policy by the one in a file; a field that is left out gets its default."""
    policy = _read(file)
    with connect(url, api_key) as client, moving(reason, expected_revision, operation_id) as how:
        _print(client.set_policy(name, policy, **how), json)


def _read(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LocalProblem(f"{file} cannot be read: {error}") from error
    try:
        policy = json_of.loads(text)
    except (ValueError, RecursionError):
        policy = _yaml(file, text)
    if not isinstance(policy, dict):
        raise LocalProblem(f"{file} holds no policy: write one field a line, such as 'adapt_every: 6h'.")
    try:
        _need_json(file, policy)
    except RecursionError as error:  # YAML's anchors may lead back to where they stand
        raise LocalProblem(f"{file} is nested too deeply.") from error
    return policy


def _need_json(file: Path, value: Any, field: str = "") -> None:
    """``LocalProblem`` that names the first field whose name or value JSON cannot hold."""
    if isinstance(value, dict):
        for name, held in value.items():
            if not isinstance(name, str):
                raise LocalProblem(f"{file}: {field or 'the policy'} has a field {name!r:.80}, whose name is no text.")
            _need_json(file, held, f"{field}.{name}" if field else name)
    elif isinstance(value, list):
        for place, held in enumerate(value):
            _need_json(file, held, f"{field}.{place}")
    else:
        try:
            canonical(value)
        except (TypeError, ValueError) as error:
            raise LocalProblem(f"{file}: '{field}' is {value!r:.80}, which JSON cannot hold.") from error


def _yaml(file: Path, text: str) -> Any:
    try:
        from shoal import plain_yaml
    except ImportError as error:  # the bare client has no YAML reader
        raise LocalProblem(f"{file} is not JSON, and YAML needs PyYAML: pip install pyyaml.") from error
    try:
        return plain_yaml.load(text)
    except ValueError as error:
        raise LocalProblem(f"{file} is neither YAML nor JSON: {error}") from error


def _to_yaml(policy: dict[str, Any]) -> str:
    try:
        import yaml
    except ImportError:  # the bare client: JSON is YAML, too
        return json_of.dumps(policy, indent=2)
    return str(yaml.safe_dump(policy, sort_keys=False, allow_unicode=True))


def _spelled(value: Any, name: str = "") -> Any:
    """A policy as a person writes it: durations with a unit, without the number of its schema."""
    if isinstance(value, dict):
        return {key: _spelled(held, key) for key, held in value.items() if key != "schema_number"}
    if name not in DURATIONS or not isinstance(value, (int, float)) or not value:
        return value
    unit, length = next((pair for pair in _UNITS if value % pair[1] == 0), ("s", 1))
    return f"{value / length:g}{unit}"


def _print(answer: dict[str, Any], json: bool) -> None:
    if json:
        output.print_json(answer)
        return
    output.figures(_spelled(answer["policy"]), indent="")
