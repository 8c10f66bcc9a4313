"""The options that commands share, and the client that they lead to."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from typing import Annotated

import typer

from registry.errors import ShoalError
from shoal.client import Client
from shoal.errors import LocalProblem

Url = Annotated[
    str | None, typer.Option("--url", envvar="SHOAL_URL", help="Where Shoal answers; default http://127.0.0.1:3000.")
]
ApiKey = Annotated[
    str | None, typer.Option("--api-key", envvar="SHOAL_API_KEY", help="The key, where the service wants one.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the service's JSON and nothing else.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The adapter, such as support-bot.", show_default=False)]
Reason = Annotated[str, typer.Option("--reason", help="Why; it is kept in the history.", show_default=False)]
Revision = Annotated[
    int | None,
    typer.Option("--expected-revision", help="Move only if the rollout is still at this revision.", show_default=False),
]
OperationId = Annotated[
    str | None,
    typer.Option("--operation-id", help="Repeat the move of this id: it is made once.", show_default=False),
]


def connect(url: str | None, api_key: str | None) -> Client:
    return Client(url, api_key)


@contextlib.contextmanager
def moving(reason: str, revision: int | None, operation_id: str | None) -> Iterator[dict[str, str | int]]:
    """The fields of a move that were given, and its id: whoever got no answer is told how to repeat it without doing it twice."""
    operation = f"cli-{secrets.token_hex(8)}" if operation_id is None else operation_id
    given: dict[str, str | int] = {"reason": reason} if reason else {}
    try:
        yield given | ({} if revision is None else {"expected_revision": revision}) | {"operation_id": operation}
    except ShoalError as error:
        if error.status >= 500:  # nobody knows whether it was made before the answer was lost
            error.message += f" Repeat it with --operation-id {operation}: under that id it is made once."
        raise


def named(model: str) -> tuple[str, str | None]:
    """``support-bot@7`` as ``("support-bot", "7")``; without a version ``("support-bot", None)``."""
    name, at, version = model.partition("@")
    if not name or (at and not version):
        raise LocalProblem(f"'{model}' is not NAME or NAME@VERSION, such as support-bot@7.")
    return name, version or None


def resolved(client: Client, name: str, version: str | None) -> int:
    """A version's number: given, or the one in the place ``champion`` (the default) or ``challenger``."""
    if version and version.isdecimal():
        return int(version)
    place = version or "champion"
    if place not in ("champion", "challenger"):
        raise LocalProblem(f"'{version}' is not a version: give a number, 'champion' or 'challenger'.")
    held = client.adapter(name)["rollout"].get(place)
    if held is None:
        raise LocalProblem(f"'{name}' has no {place} now. `shoal versions {name}` lists its versions.")
    return int(held)
