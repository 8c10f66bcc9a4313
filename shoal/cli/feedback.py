"""``shoal feedback``: tell how good an answer was, and read what was told."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated, Any

import typer

from shoal.cli import output
from shoal.cli.feedback_files import export, import_
from shoal.cli.options import ApiKey, Json, Name, Url, connect
from shoal.errors import LocalProblem

HELP = """Tell how good an answer was: a rating, a correction, or a preferred and a rejected answer.

Of an answer that Shoal gave (the id is its x-request-id):

    shoal feedback --request-id 8c1f... --rating up

Of any answer:

    shoal feedback --adapter support-bot --prompt "2 + 2 =" --answer 5 --correction 4

Many at once, one JSON object a line (an id of yours makes it safe to send again):

    shoal feedback --file items.jsonl

A file from elsewhere, of any length, in Shoal's, Langfuse's or Argilla's words, and all of it as a file:

    shoal feedback import support-bot scores.jsonl
    shoal feedback export support-bot --to feedback.parquet
"""

app = typer.Typer(help=HELP, rich_markup_mode="markdown")


app.command("import")(import_)
app.command("export")(export)


def _text(name: str, told: str) -> Any:
    return typer.Option(f"--{name}", help=told, show_default=False)


@app.callback(invoke_without_command=True)
def send(
    context: typer.Context,
    request_id: Annotated[str | None, _text("request-id", "The answer that is judged: its x-request-id.")] = None,
    adapter: Annotated[str | None, _text("adapter", "The adapter, where there is no request id.")] = None,
    prompt: Annotated[str | None, _text("prompt", "What was asked.")] = None,
    answer: Annotated[str | None, _text("answer", "What was answered.")] = None,
    rating: Annotated[str | None, _text("rating", "up, down, or a number from 0 to 1.")] = None,
    correction: Annotated[str | None, _text("correction", "What the answer should have been.")] = None,
    preferred: Annotated[str | None, _text("preferred", "The better answer of a pair.")] = None,
    rejected: Annotated[str | None, _text("rejected", "The worse answer of a pair.")] = None,
    rater: Annotated[str | None, _text("rater", "Who says so.")] = None,
    comment: Annotated[str | None, _text("comment", "Any words.")] = None,
    stars: Annotated[int | None, typer.Option(min=1, max=5, help="1 to 5.", show_default=False)] = None,
    label: Annotated[list[str] | None, typer.Option(help="A short name, for filters. Repeatable.")] = None,
    conversation: Annotated[str | None, _text("conversation", "What the answer belongs to.")] = None,
    feedback_id: Annotated[str | None, _text("id", "An id of yours: sent again, it counts once.")] = None,
    file: Annotated[Path | None, _text("file", "Items as JSON lines; - reads standard input.")] = None,
    url: Url = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> None:
    if context.invoked_subcommand:
        return
    one = {
        "request_id": request_id,
        "adapter": adapter,
        "prompt": prompt,
        "answer": answer,
        "rating": _rating(rating),
        "correction": correction,
        "preferred": preferred,
        "rejected": rejected,
        "rater": rater,
        "comment": comment,
        "stars": stars,
        "labels": label or None,
        "conversation": conversation,
        "id": feedback_id,
    }
    given = {field: value for field, value in one.items() if value is not None}
    if bool(given) == bool(file):
        raise LocalProblem("Give one item by options, or many by --file. `shoal feedback --help` shows both.")
    with connect(url, api_key) as client:
        sent = client.send_feedback(_items(file) if file else given)
    if json:
        output.print_json(sent)
    elif sent.get("spooled"):
        output.say(f"Redis is away: {sent['spooled']} kept on the service's disk until it is back.")
    elif file:
        output.say(f"{sent['accepted']} accepted, {sent['repeated']} known already.")
    else:
        kept = sent["feedback"]
        output.say(f"{'Kept' if sent['new'] else 'Known already'}: {kept['id']}, for {_judged(kept)}.")


@app.command("list")
def list_(
    name: Name,
    limit: Annotated[int, typer.Option(min=1, help="How many items.")] = 100,
    url: Url = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> None:
    """List the feedback on an adapter, newest first."""
    with connect(url, api_key) as client:
        answer = client.feedback(name, limit=limit)
    if json:
        output.print_json(answer)
        return
    rows = [
        (output.time_of(item["at"]), _judged(item), _verdict(item), item["rater"], _prompt(item), item["id"])
        for item in answer["feedback"]
    ]
    output.table(("at (UTC)", "version", "said", "rater", "prompt", "id"), rows, f"No feedback on '{name}' yet.")
    if answer["total"] > len(rows):
        output.say(f"{len(rows)} of {answer['total']}; more: --limit {answer['total']}")


def _rating(rating: str | None) -> str | float | None:
    if rating in (None, "up", "down"):
        return rating
    try:
        return float(str(rating))
    except ValueError:
        raise LocalProblem(f"--rating {rating}: it is up, down, or a number from 0 to 1.") from None


def _items(file: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines; what is wrong is told with its line."""
    try:
        text = typer.get_text_stream("stdin").read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LocalProblem(f"{file} cannot be read: {error}.") from error
    items = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            item = jsonlib.loads(line)
        except ValueError as error:
            raise LocalProblem(f"{file}, line {number}: not JSON ({error}). Nothing was sent.") from error
        if not isinstance(item, dict):
            raise LocalProblem(f"{file}, line {number}: not a JSON object. Nothing was sent.")
        items.append(item)
    if not items:
        raise LocalProblem(f"{file} holds no item.")
    return items


def _judged(item: dict[str, Any]) -> str:
    return item["adapter"] if item.get("version") is None else f"{item['adapter']}@{item['version']}"


def _verdict(item: dict[str, Any]) -> str:
    parts = []
    if item.get("rating") is not None:
        parts.append(_rated(item))
    if item.get("correction") is not None:
        parts.append(f"should be {_short(item['correction'])!r}")
    if item.get("preferred") is not None:
        parts.append(f"rather {_short(item['preferred'])!r} than {_short(item.get('rejected') or '')!r}")
    if item.get("comment"):
        parts.append(f"says {_short(item['comment'])!r}")
    return ", ".join(parts)


def _rated(item: dict[str, Any]) -> str:
    """As it was sent; in brackets where a later rating counts instead."""
    told = {1.0: "up", 0.0: "down"}.get(item["rating"], output.shown(item["rating"]))
    if item.get("stars") is not None:
        told = f"{item['stars']} of 5 stars"
    return f"({told})" if "rating" in (item.get("superseded_by") or {}) else told


def _prompt(item: dict[str, Any]) -> str:
    messages = item.get("messages") or [{"content": item.get("prompt") or ""}]
    return _short(messages[-1].get("content") or "")


def _short(text: str, length: int = 40) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 3]}..."
