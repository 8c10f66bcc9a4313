"""``shoal feedback import`` and ``export``: files of feedback, in and out."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated

import typer

from shoal.cli import output
from shoal.cli.options import ApiKey, Json, Name, Url, connect
from shoal.errors import LocalProblem
from shoal.feedback_import import Imported, import_feedback


def import_(
    name: Name,
    file: Annotated[Path, typer.Argument(metavar="FILE.jsonl", help="One JSON object a line; - reads standard input.")],
    score: Annotated[
        str | None, typer.Option("--score", help="Of Langfuse's scores, those of this name.", show_default=False)
    ] = None,
    stars: Annotated[bool, typer.Option("--stars", help="Numbers called a value or a score are 1 to 5 stars.")] = False,
    url: Url = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> None:
    """Bring in feedback that is there already: lines as `shoal feedback export` writes them, Langfuse's scores, Argilla's
    records.

    Sent again, nothing counts twice. A line that cannot be kept is named with the reason, and the others are kept; exit code 1.
    """
    try:
        with connect(url, api_key) as client, _opened(file) as lines:
            tell = (lambda so_far: None) if json else _progress
            done = import_feedback(client, name, lines, score=score, stars=stars, tell=tell)
    except (OSError, UnicodeDecodeError) as error:
        raise LocalProblem(
            f"{file} cannot be read: {error}. What was sent is kept; sent again, it counts once."
        ) from error
    if json:
        refused = [{"line": number, "reason": reason} for number, reason in done.refused]
        output.print_json(
            {**{name: value for name, value in vars(done).items() if name != "refused"}, "refused": refused}
        )
    else:
        _say(done)
    if done.refused:
        raise typer.Exit(1)


def export(
    name: Name,
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="A .jsonl or a .parquet.")],
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Write all feedback on an adapter to a file, oldest first; what was replaced by a later rating says so."""
    with connect(url, api_key) as client:
        size = client.export_feedback(name, to)
    output.say("Written: ", (str(to), "bold"), f", {size:,} bytes.")


def _opened(file: Path) -> AbstractContextManager[Iterable[str]]:
    if str(file) == "-":
        return nullcontext(typer.get_text_stream("stdin"))
    return file.open(encoding="utf-8")


def _progress(so_far: Imported) -> None:
    kept = so_far.accepted + so_far.repeated + so_far.spooled
    output.say(f"{so_far.lines:,} lines read, {kept:,} items kept, {len(so_far.refused):,} lines refused ...")


def _say(done: Imported) -> None:
    for number, reason in done.refused:
        output.say((f"line {number}: ", "red"), reason)
    parts = [f"{done.accepted:,} accepted", f"{done.repeated:,} known already", f"{len(done.refused):,} refused"]
    if done.spooled:
        parts.append(f"{done.spooled:,} on the service's disk until its Redis is back")
    if done.left_out:
        parts.append(f"{done.left_out:,} scores of other names left out")
    output.say(f"{done.lines:,} lines: {', '.join(parts)}.")
