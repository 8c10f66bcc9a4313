"""``shoal history``: what happened to an adapter, in sentences."""

from __future__ import annotations

from typing import Annotated

import typer

from shoal.cli import output
from shoal.cli.options import ApiKey, Json, Name, Url, connect


def history(
    name: Name,
    limit: Annotated[int, typer.Option(min=1, help="How many events.")] = 100,
    url: Url = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> None:
    """Tell what happened to an adapter, newest first: when, at which revision, who did what, and why."""
    with connect(url, api_key) as client:
        events = client.history(name, limit=limit)
    if json:
        output.print_json({"events": events})
        return
    width = max((len(str(event["revision"])) for event in events), default=1)
    for event in events:
        time, revision = output.time_of(event["at"]), str(event["revision"])
        output.say((f"{time} UTC", "dim"), (f"  r{revision:<{width}}", "cyan"), f"  {event['sentence']}")
    if not events:
        output.say(f"Nothing has happened to '{name}' yet.")
