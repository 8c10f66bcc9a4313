"""``shoal keys create``, ``list``, ``revoke``: who may ask for what."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from shoal.cli import output
from shoal.cli.options import ApiKey, Json, Reason, Url, connect
from shoal.errors import LocalProblem

app = typer.Typer(no_args_is_help=True, help="API keys: who may infer, rate, operate, administer.")
SCOPES = "infer, feedback, operate, admin"
_DAYS = re.compile(r"(\d+(?:\.\d+)?)([dh])")


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is; history writes it down.", show_default=False)],
    scope: Annotated[list[str], typer.Option("--scope", help=f"What it may do: {SCOPES}. Repeatable.")],
    adapter: Annotated[
        list[str] | None, typer.Option("--adapter", help="The only adapters that it is for. Repeatable.")
    ] = None,
    rater: Annotated[
        list[str] | None, typer.Option("--rater", help="The only raters that it gives feedback for. Repeatable.")
    ] = None,
    rate: Annotated[float | None, typer.Option("--rate", help="Requests a second.", show_default=False)] = None,
    max_body_mb: Annotated[
        float | None,
        typer.Option("--max-body-mb", help="The largest body of a request, in megabytes.", show_default=False),
    ] = None,
    expires: Annotated[str | None, typer.Option("--expires", help="After 90d, 12h, ...", show_default=False)] = None,
    url: Url = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> None:
    """Make a key. Its token is printed once and kept nowhere."""
    with connect(url, api_key) as client:
        made = client.create_key(
            name,
            scope,
            adapters=adapter or None,
            rate=rate,
            max_body_mb=max_body_mb,
            days=_days(expires),
            raters=rater or None,
        )
    if json:
        output.print_json(made)
        return
    output.say("key ", (made["key"]["id"], "bold"), f" for {name}; its token, shown this once:")
    output.say((made["token"], "green"))


@app.command("list")
def list_(url: Url = None, api_key: ApiKey = None, json: Json = False) -> None:
    """Every key, newest first; revoked and expired ones too."""
    with connect(url, api_key) as client:
        keys = client.keys()
        problems = {} if json else client.key_problems()
    if json:
        output.print_json(keys)
        return
    rows = [
        (
            key["id"],
            key["name"],
            " ".join(key["scopes"]),
            " ".join(key["adapters"]) if key["adapters"] is not None else "all",
            key["created_at"][:19],
            f"revoked by {key['revoked_by']}" if key["revoked_at"] else (key["expires_at"] or "")[:19],
        )
        for key in keys
    ]
    output.table(("id", "name", "scopes", "adapters", "created", "until"), rows, "No keys yet.")
    for key_id, problem in problems.items():
        output.say((f"{key_id} opens nothing: {problem}", "bold red"))


@app.command("revoke")
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="From `shoal keys list`.", show_default=False)],
    reason: Reason = "",
    url: Url = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> None:
    """A key opens nothing any more, on any replica, within a second."""
    with connect(url, api_key) as client:
        key = client.revoke_key(key_id, reason=reason)
    if json:
        output.print_json(key)
    else:
        output.say("revoked ", (key["id"], "bold"), f" of {key['name']}")


def _days(expires: str | None) -> float | None:
    if expires is None:
        return None
    if (found := _DAYS.fullmatch(expires)) is None:
        raise LocalProblem(f"--expires is '{expires}'; say it in days or hours: 90d, 12h.")
    return float(found[1]) / (24 if found[2] == "h" else 1)
