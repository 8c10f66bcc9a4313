"""``shoal promote``, ``rollback``, ``canary``, ``pin``, ``unpin``, ``retire``: who answers, and what stays loaded."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from shoal.cli import output
from shoal.cli.options import ApiKey, Json, Name, OperationId, Reason, Revision, Url, connect, moving
from shoal.errors import LocalProblem

VersionNumber = Annotated[int, typer.Argument(metavar="VERSION", min=1, help="Its number.", show_default=False)]


def promote(
    name: Name,
    version: VersionNumber,
    reason: Reason = "",
    expected_revision: Revision = None,
    operation_id: OperationId = None,
    url: Url = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> None:
    """Make a version the champion: it answers all traffic. Every replica gets ready first; no request is dropped."""
    with connect(url, api_key) as client, moving(reason, expected_revision, operation_id) as how:
        _told(client.promote(name, version, **how), json)


def rollback(
    name: Name,
    to: Annotated[int | None, typer.Option("--to", min=1, help="An earlier version.", show_default=False)] = None,
    reason: Reason = "",
    expected_revision: Revision = None,
    operation_id: OperationId = None,
    url: Url = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> None:
    """Go back to the champion before this one; again: further back. At once where it is still loaded: see SHOAL_MAX_LORAS."""
    with connect(url, api_key) as client, moving(reason, expected_revision, operation_id) as how:
        _told(client.rollback(name, to, **how), json)


def canary(
    name: Name,
    version: Annotated[int | None, typer.Argument(metavar="VERSION", min=1, show_default=False)] = None,
    share: Annotated[
        float | None,
        typer.Option("--share", min=0, max=1, help="Its share of the traffic: .05 is 5%.", show_default=False),
    ] = None,
    shadow: Annotated[
        bool, typer.Option("--shadow", help="Answer nobody with it: the champion answers, it is scored on the side.")
    ] = False,
    end: Annotated[bool, typer.Option("--end", help="End the trial that goes on.")] = False,
    reason: Reason = "",
    expected_revision: Revision = None,
    operation_id: OperationId = None,
    url: Url = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> None:
    """Put a version on trial with a share of the traffic (default: the policy's), or end the trial.

    Callers stay on the side they are on.

    shoal canary support-bot 7 --share .05

    shoal canary support-bot 7 --shadow

    shoal canary support-bot --end
    """
    if end == (version is not None) or (share is not None) + shadow + end > 1:
        raise LocalProblem(
            "Give a version (with its share, or --shadow), or end the trial: "
            f"shoal canary {name} 7 --shadow | 7 --share .05 | --end."
        )
    with connect(url, api_key) as client, moving(reason, expected_revision, operation_id) as how:
        _told(client.canary(name, version, share, shadow=shadow, **how), json)


def pin(
    name: Name,
    version: VersionNumber,
    reason: Reason = "",
    expected_revision: Revision = None,
    operation_id: OperationId = None,
    url: Url = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> None:
    """Keep a version loaded on every replica, whoever answers, until it is unpinned."""
    with connect(url, api_key) as client, moving(reason, expected_revision, operation_id) as how:
        _told(client.pin(name, version, **how), json)


def unpin(
    name: Name,
    version: VersionNumber,
    reason: Reason = "",
    expected_revision: Revision = None,
    operation_id: OperationId = None,
    url: Url = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> None:
    """Keep a version loaded only while the rollout itself needs it."""
    with connect(url, api_key) as client, moving(reason, expected_revision, operation_id) as how:
        _told(client.unpin(name, version, **how), json)


def retire(
    name: Name,
    version: VersionNumber,
    reason: Reason = "",
    expected_revision: Revision = None,
    operation_id: OperationId = None,
    url: Url = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> None:
    """Never serve a version again. Its record, lineage and number stay; one that is kept loaded is refused."""
    with connect(url, api_key) as client, moving(reason, expected_revision, operation_id) as how:
        _told(client.retire(name, version, **how), json)


def _told(rollout: dict[str, Any], json: bool) -> None:
    if json:
        output.print_json(rollout)
        return
    name, champion = rollout["adapter"], rollout["champion"]
    trial = ""
    if rollout.get("challenger") is not None:
        share = f"has {output.percent(rollout['challenger_share'])} of the traffic"
        trial = f"; {name}@{rollout['challenger']} {'is tried in its shadow' if rollout.get('shadow') else share}"
    pins = f"; pinned: {output.shown(rollout['pins'])}" if rollout.get("pins") else ""
    output.say((f"{name} -> version {champion}", "bold green"), f"{trial}{pins} (revision {rollout['revision']})")
