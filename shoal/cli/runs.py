"""``shoal adapt`` and ``shoal runs``: start an adaptation, watch it, read those there were."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from shoal.cli import output, snapshot
from shoal.cli.options import ApiKey, Json, Name, Reason, Url, connect
from shoal.cli.watch import watch

app = typer.Typer(help="List the runs, newest first; show, watch or cancel one.", rich_markup_mode="markdown")
RunId = Annotated[str, typer.Argument(metavar="ID", help="The run's id, from `shoal runs`.", show_default=False)]


def adapt(
    name: Name,
    watching: Annotated[bool, typer.Option("--watch/--no-watch", help="Stay and draw its progress.")] = True,
    seed: Annotated[int | None, typer.Option(help="Redraws the snapshot and the search.", show_default="0")] = None,
    utility: Annotated[str | None, typer.Option(help="What the search maximises.", show_default="preference")] = None,
    optimizer: Annotated[str | None, typer.Option(help="How it searches.", show_default="cma_es")] = None,
    space: Annotated[
        str | None, typer.Option(help="How experts are combined: delta or factors.", show_default="delta")
    ] = None,
    max_generations: Annotated[int | None, typer.Option(min=1, help="At most so many.", show_default=False)] = None,
    max_item_generations: Annotated[
        int | None, typer.Option(min=1, help="At most so many items scored, positions times items.", show_default=False)
    ] = None,
    max_seconds: Annotated[
        float | None, typer.Option(min=1, help="The search ends after so many.", show_default=False)
    ] = None,
    search_items: Annotated[
        int | None, typer.Option(min=10, help="Feedback items that score a position.", show_default="200")
    ] = None,
    min_feedback: Annotated[
        int | None, typer.Option(min=20, help="Fewest usable feedback items to start with.", show_default=False)
    ] = None,
    grow: Annotated[
        str | None, typer.Option(help="Train an expert of its own: never, stuck or always.", show_default="never")
    ] = None,
    grow_from: Annotated[
        str | None, typer.Option(help="What that training starts from: champion or base.", show_default="champion")
    ] = None,
    confirm_items: Annotated[
        int | None,
        typer.Option(min=30, help="Most feedback items that the finalist is confirmed on.", show_default="1000"),
    ] = None,
    snapshot_digest: Annotated[
        str | None,
        typer.Option("--snapshot", metavar="DIGEST", help="On an earlier snapshot, as it was.", show_default=False),
    ] = None,
    since: snapshot.Since = None,
    until: snapshot.Until = None,
    last: snapshot.Last = None,
    versions: snapshot.Versions = None,
    raters: snapshot.Raters = None,
    without_raters: snapshot.WithoutRaters = None,
    labels: snapshot.Labels = None,
    without_labels: snapshot.WithoutLabels = None,
    max_rater_share: snapshot.MaxRaterShare = None,
    max_per_rater: snapshot.MaxPerRater = None,
    balance: snapshot.Balance = None,
    near_duplicates: snapshot.NearDuplicates = None,
    near_duplicate_at: snapshot.NearDuplicateAt = None,
    promote: Annotated[bool, typer.Option("--promote/--no-promote", help="Promote what passes the gate.")] = True,
    reason: Reason = "",
    url: Url = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> None:
    """Search for a better version in the space that the adapter's experts span, scored by its users' feedback.

    What is found is compared with the champion on feedback that the search has not seen; only what is better there is
    registered and, unless --no-promote, promoted. --grow trains one more expert on a part of the feedback, with gradient
    steps, before the search: always, or where the last searches found nothing. Ctrl-C leaves the run going: `shoal runs
    watch ID` comes back to it.
    """
    spec = {
        "adapter": name,
        "utility": utility,
        "optimizer": optimizer,
        "space": space,
        "seed": seed,
        "max_generations": max_generations,
        "max_item_generations": max_item_generations,
        "max_seconds": max_seconds,
        "search_items": search_items,
        "confirm_items": confirm_items,
        "snapshot_digest": snapshot_digest,
        "snapshot": snapshot.chosen(
            since=since,
            until=until,
            last=last,
            versions=versions,
            raters=raters,
            without_raters=without_raters,
            labels=labels,
            without_labels=without_labels,
            max_rater_share=max_rater_share,
            max_per_rater=max_per_rater,
            balance=balance,
            near_duplicates=near_duplicates,
            near_duplicate_at=near_duplicate_at,
        ),
        "min_feedback": min_feedback,
        "grow": {key: value for key, value in {"when": grow, "start": grow_from}.items() if value} or None,
        "promote": None if promote else False,
        "reason": reason or None,
    }
    with connect(url, api_key) as client:
        run = client.start_run(**spec)
        if json or not watching:
            _print(run, json)
        else:
            raise typer.Exit(watch(client, run["id"]))


@app.callback(invoke_without_command=True)
def runs(
    context: typer.Context,
    adapter: Annotated[str | None, typer.Option(help="Of this adapter only.", show_default=False)] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 50,
    before: Annotated[
        str | None, typer.Option(metavar="ID", help="Only those that began before this one.", show_default=False)
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> None:
    if context.invoked_subcommand:
        return
    with connect(url, api_key) as client:
        listed = client.runs(adapter, limit=limit, before=before)
    if json:
        output.print_json({"runs": listed})
        return
    rows = [
        (
            run["id"],
            run["spec"]["adapter"],
            run["status"],
            f"{run['generation']}/{run['max_generations']}",
            run.get("best_utility"),
            f"version {run['version']}" if run.get("version") else "",
            output.time_of(run["created_at"]),
            run.get("outcome") or run.get("formula") or "",
        )
        for run in listed
    ]
    columns = ("run", "adapter", "status", "generation", "utility", "result", "started (UTC)", "outcome")
    output.table(columns, rows, "No run yet. Start one: shoal adapt NAME")


@app.command()
def show(run_id: RunId, url: Url = None, api_key: ApiKey = None, json: Json = False) -> None:
    """Show everything that is known of a run."""
    with connect(url, api_key) as client:
        run = client.run(run_id)
    if json:
        output.print_json(run)
    else:
        output.figures({key: value for key, value in run.items() if key != "schema_number"}, indent="")


@app.command()
def cancel(run_id: RunId, url: Url = None, api_key: ApiKey = None, json: Json = False) -> None:
    """Cancel a run. What answers stays as it is, but for what it found and has on trial: the trial ends."""
    with connect(url, api_key) as client:
        _print(client.cancel_run(run_id), json)


@app.command("watch")
def watch_(run_id: RunId, url: Url = None, api_key: ApiKey = None) -> None:
    """Draw a run's progress until it ends; exit code 1 if it failed or was cancelled."""
    with connect(url, api_key) as client:
        raise typer.Exit(watch(client, run_id))


def _print(run: dict[str, Any], json: bool) -> None:
    if json:
        output.print_json(run)
    else:
        output.say(
            f"Run {run['id']} of {run['spec']['adapter']}: {run['status']}. Watch it: shoal runs watch {run['id']}"
        )
