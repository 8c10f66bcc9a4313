"""``shoal import`` and ``shoal export``: PEFT folders in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shoal.cli import output
from shoal.cli.options import ApiKey, Json, Name, Url, connect, named, resolved


def import_(
    name: Name,
    source: Annotated[
        Path, typer.Argument(metavar="DIR|ARCHIVE", help="A PEFT LoRA folder, or a zip, tar or tar.gz of one.")
    ],
    label: Annotated[str, typer.Option(help="A short name, which formulas print.", show_default=False)] = "",
    note: Annotated[str, typer.Option(help="Any words.", show_default=False)] = "",
    url: Url = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> None:
    """Register a LoRA as the next version of an adapter, which is created if there is none.

    An adapter's first version becomes its champion. The same weights again are the version that they are already.
    """
    with connect(url, api_key) as client:
        answer = client.import_version(name, source, label=label, note=note)
        champion = None if json else client.adapter(name)["rollout"].get("champion")
    if json:
        output.print_json(answer)
        return
    version = answer["version"]["version"]
    if not answer["new"]:
        output.say(f"These weights are registered already: {name}@{version}.")
    elif champion == version:
        output.say((f"Registered {name}@{version}", "bold green"), ". It is the champion: it answers now.")
    else:
        output.say(
            (f"Registered {name}@{version}", "bold green"), f". To let it answer: shoal promote {name} {version}"
        )


def export(
    model: Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="Without a version: the champion.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Write a version as a PEFT folder, which peft and vLLM load."""
    name, version = named(model)
    with connect(url, api_key) as client:
        number = resolved(client, name, version)
        written = client.export(name, number, folder)
    output.say((f"{name}@{number}", "bold green"), f" is in {written}")
