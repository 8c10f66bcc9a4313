"""``shoal adapters`` and ``shoal versions``: what there is, and what answers."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from shoal.cli import output
from shoal.cli.options import ApiKey, Json, Name, Url, connect

Limit = Annotated[int, typer.Option(min=1, help="How many at most.")]


def adapters(
    limit: Limit = 100,
    after: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only those behind this name: the next page.", show_default=False)
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> None:
    """List the adapters: which version answers (the champion), which is on trial, and the rollout's revision."""
    with connect(url, api_key) as client:
        listed = client.adapters(limit=limit, after=after)
    if json:
        output.print_json({"adapters": listed})
        return
    rows = [
        (
            adapter["name"],
            _version(adapter["rollout"].get("champion")),
            _trial(adapter["rollout"]),
            adapter["versions"],
            adapter["rollout"]["revision"],
            output.time_of(adapter["rollout"].get("moved_at")),
        )
        for adapter in listed
    ]
    columns = ("adapter", "champion", "challenger", "versions", "revision", "moved (UTC)")
    output.table(columns, rows, "No adapter yet. Import one: shoal import NAME DIR")
    if len(listed) == limit:
        output.say((f"More, if any: shoal adapters --after {listed[-1]['name']}", "dim"))


def versions(
    name: Name,
    limit: Limit = 100,
    before: Annotated[
        int | None, typer.Option(min=1, help="Only versions below this number: the next page.", show_default=False)
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> None:
    """List the versions of an adapter, newest first: where each stands and what it is made of."""
    with connect(url, api_key) as client:
        listed = client.versions(name, limit=limit, before=before)
        rollout = {} if json else client.adapter(name)["rollout"]
    if json:
        output.print_json({"versions": listed})
        return
    rows = [
        (
            f"{name}@{version['version']}",
            _place(version, rollout),
            version["label"] or ((version.get("lineage") or {}).get("formula") or ""),
            version["origin"],
            version["rank"],
            output.size_of(version["size"]),
            output.time_of(version["created_at"]),
            version["created_by"],
        )
        for version in listed
    ]
    columns = ("version", "place", "label or formula", "origin", "rank", "size", "created (UTC)", "by")
    output.table(columns, rows, f"'{name}' has no version yet. Import one: shoal import {name} DIR")
    if len(listed) == limit and listed[-1]["version"] > 1:
        output.say((f"More: shoal versions {name} --before {listed[-1]['version']}", "dim"))


def _version(number: int | None) -> str:
    return "" if number is None else f"version {number}"


def _trial(rollout: dict[str, Any]) -> str:
    if rollout.get("challenger") is None:
        return ""
    return f"version {rollout['challenger']}, {_share(rollout)}"


def _share(rollout: dict[str, Any]) -> str:
    return "shadow" if rollout.get("shadow") else output.percent(rollout["challenger_share"])


def _place(version: dict[str, Any], rollout: dict[str, Any]) -> str:
    number = version["version"]
    if number == rollout.get("champion"):
        return "champion"
    if number == rollout.get("challenger"):
        return f"challenger, {_share(rollout)}"
    if version.get("retired"):
        return "retired"
    if number in (rollout.get("withdrawn") or ()):
        return "rolled back"
    trail = rollout.get("trail") or ()
    return "champion before" if trail and number == trail[-1] else ""
