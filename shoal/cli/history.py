"""``shoal history``: what happened to an adapter, in sentences; or what was live at a time."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from shoal.cli import output
from shoal.cli.options import ApiKey, Json, Name, Url, connect
from shoal.errors import LocalProblem


def history(
    name: Name,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many events.")] = 100,
    before: Annotated[
        int | None, typer.Option(min=1, help="Only events below this number: the next page.", show_default=False)
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="What was live then, such as 2026-11-23T18:57Z; UTC.", show_default=False),
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> None:
    """Tell what happened to an adapter, newest first: when, at which revision, who did what, and why."""
    if at is not None and before is not None:
        raise LocalProblem("--at asks for one moment, --before for a page of events: give one of them.")
    with connect(url, api_key) as client:
        if at is not None:
            _tell_moment(client.live_at(name, at), json)
            return
        events = client.history(name, limit=limit, before=before)
    if json:
        output.print_json({"events": events})
        return
    width = max((len(str(event["revision"])) for event in events), default=1)
    for event in events:
        _tell(event, width)
    if not events:
        output.say(f"Nothing has happened to '{name}' yet.")
    elif len(events) == limit and events[-1].get("number", 1) > 1:
        output.say((f"More: shoal history {name} --before {events[-1]['number']}", "dim"))


def _tell(event: dict[str, Any], width: int) -> None:
    time, revision = output.time_of(event["at"]), str(event["revision"])
    output.say((f"{time} UTC", "dim"), (f"  r{revision:<{width}}", "cyan"), f"  {event['sentence']}")


def _tell_moment(found: dict[str, Any], json: bool) -> None:
    if json:
        output.print_json(found)
        return
    name, live = found["adapter"], found["live"]
    told = f"version {live['champion']}" if live["champion"] is not None else "no champion"
    if live["challenger"] is not None:
        share = "in its shadow" if live["shadow"] else f"with {output.percent(live['challenger_share'])} of the traffic"
        told += f"; version {live['challenger']} on trial {share}"
    if live["pins"]:
        told += f"; pinned: {output.shown(live['pins'])}"
    output.say((f"{name} at {output.time_of(found['at'])} UTC: ", ""), (told, "bold green"))
    _tell(found["since"], 1)
