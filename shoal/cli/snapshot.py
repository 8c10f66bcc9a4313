"""``shoal snapshot``, and the options of ``shoal adapt`` that say which feedback a run is on."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from shoal.cli import output
from shoal.cli.options import ApiKey, Json, Url, connect

PANEL = "Which feedback"
TIMES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"]

app = typer.Typer(help="Show what a run was on.", no_args_is_help=True, rich_markup_mode="markdown")


def _option(name: str, told: str, **how: Any) -> Any:
    return typer.Option(f"--{name}", help=told, rich_help_panel=PANEL, **{"show_default": False, **how})


Since = Annotated[datetime | None, _option("since", "From this time on (UTC).", formats=TIMES)]
Until = Annotated[datetime | None, _option("until", "Before this time (UTC).", formats=TIMES)]
Last = Annotated[str | None, _option("last", "No older than: 30d, 12h, or seconds.")]
Versions = Annotated[list[int] | None, _option("version", "Of this version only; may be repeated.")]
Raters = Annotated[list[str] | None, _option("rater", "By this rater only; may be repeated.")]
WithoutRaters = Annotated[list[str] | None, _option("without-rater", "Not by this rater; may be repeated.")]
Labels = Annotated[list[str] | None, _option("label", "With this label; may be repeated: with one of them.")]
WithoutLabels = Annotated[list[str] | None, _option("without-label", "Without this label; may be repeated.")]
MaxRaterShare = Annotated[
    float | None,
    _option("max-rater-share", "Most of the items that one rater decides; 1: no limit.", show_default="0.2"),
]
MaxPerRater = Annotated[int | None, _option("max-per-rater", "The same as a count of items.", min=1)]
Balance = Annotated[
    str | None, _option("balance", "good_bad or label: as many items of each; none.", show_default="none")
]
NearDuplicates = Annotated[
    str | None,
    _option("near-duplicates", "drop one of two prompts that nearly agree, or keep both.", show_default="drop"),
]
NearDuplicateAt = Annotated[
    float | None, _option("near-duplicate-at", "From this similarity of their words on.", show_default="0.8")
]
Digest = Annotated[str, typer.Argument(metavar="DIGEST", help="sha256:..., as a run names it.", show_default=False)]


@app.callback()
def group() -> None:
    """Show what a run was on."""


@app.command()
def show(digest: Digest, url: Url = None, api_key: ApiKey = None, json: Json = False) -> None:
    """Show how a snapshot was made: its filter, its seed, what was left out and why, what its halves are split by.

    A run on it again, as it was: shoal adapt NAME --snapshot DIGEST
    """
    with connect(url, api_key) as client:
        snapshot = client.snapshot(digest)
    if json:
        output.print_json(snapshot)
        return
    halves = {half: f"{len(snapshot[half])} items" for half in ("search", "confirm")}
    output.figures({key: value for key, value in (snapshot | halves).items() if key != "schema_number"}, indent="")


def chosen(
    *,
    since: datetime | None,
    until: datetime | None,
    raters: list[str] | None,
    without_raters: list[str] | None,
    labels: list[str] | None,
    without_labels: list[str] | None,
    **plain: Any,
) -> dict[str, Any] | None:
    """The ``snapshot`` of a run's body from what was given; None where nothing was."""
    times = {"since": since, "until": until}
    given: dict[str, Any] = {name: _utc(time).isoformat() for name, time in times.items() if time is not None}
    names = {"raters": (raters, without_raters), "labels": (labels, without_labels)}
    for name, (include, exclude) in names.items():
        if include or exclude:
            given[name] = {"include": include or None, "exclude": exclude or []}
    return given | {name: value for name, value in plain.items() if value not in (None, [])} or None


def _utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time
