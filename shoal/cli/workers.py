"""``shoal workers``: who does what."""

from __future__ import annotations

from typing import Any

from shoal.cli import output
from shoal.cli.options import ApiKey, Json, Url, connect


def workers(url: Url = None, api_key: ApiKey = None, json: Json = False) -> None:
    """List the workers that are alive: what each is at, how much it has done, and what keeps it from working."""
    with connect(url, api_key) as client:
        listed = client.workers()
    if json:
        output.print_json({"workers": listed})
        return
    columns = ("worker", "host", "pid", "since (UTC)", "at", "done", "s each", "last seen (UTC)", "trouble")
    rows = [
        (
            worker["kind"],
            worker["host"],
            str(worker["pid"]),
            output.time_of(worker["since"]),
            _at(worker),
            str(worker["done"]),
            worker.get("seconds_each"),
            output.time_of(worker["at"]),
            worker.get("trouble") or "",
        )
        for worker in listed
    ]
    output.table(
        columns, rows, "No worker is there: `shoal up` starts them; beyond one machine, see docker-compose.yml."
    )


def _at(worker: dict[str, Any]) -> str:
    """``run-1 search-3 slice 4``, or nothing."""
    place = [worker.get("run"), worker.get("step"), None if worker.get("slice") is None else f"slice {worker['slice']}"]
    return " ".join(filter(None, place))
