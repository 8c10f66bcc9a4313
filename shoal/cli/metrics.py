"""``shoal metrics``: what each version of an adapter did for its users."""

from __future__ import annotations

from shoal.cli import output
from shoal.cli.options import ApiKey, Json, Name, Url, connect


def metrics(name: Name, url: Url = None, api_key: ApiKey = None, json: Json = False) -> None:
    """Show requests, errors, speed and ratings of each version, over all replicas and restarts."""
    with connect(url, api_key) as client:
        listed = client.metrics(name)
    if json:
        output.print_json({"versions": listed})
        return
    rows = [
        (
            f"{name}@{of['version']}",
            of["place"] or "",
            of["requests"],
            of["errors"],
            _number(of["seconds_to_first_p50"], 3),
            _number(of["tokens_per_second"], 1),
            _number(of["rating_mean"], 2),
            of["ratings"],
            of["shadow"]["requests"] or "",
            _number(of["shadow"]["agreement"], 2),
        )
        for of in listed
    ]
    columns = ("version", "place", "requests", "errors", "first token p50 (s)", "tokens/s", "rating", "ratings")
    output.table((*columns, "in the shadow", "agreement"), rows, f"No version of '{name}' has answered yet.")


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
