"""``shoal import`` and ``shoal export``: PEFT folders, archives and addresses in, folders and archives out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shoal.cli import output
from shoal.cli.options import ApiKey, Json, Name, Url, connect, named, resolved
from shoal.errors import LocalProblem


def import_(
    name: Name,
    source: Annotated[
        str,
        typer.Argument(
            metavar="DIR|ARCHIVE|ADDRESS",
            help="A PEFT LoRA folder, a zip, tar or tar.gz of one, or an address that the service fetches: "
            "hf://org/name[@revision], s3://bucket/folder.",
        ),
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
    to: Annotated[
        Path | None, typer.Argument(metavar="DIR|FILE.tar", help="A new or empty folder, or a new .tar.")
    ] = None,
    also_to: Annotated[Path | None, typer.Option("--to", metavar="DIR|FILE.tar", help="The same, by name.")] = None,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Write a version as a PEFT folder, which peft and vLLM load, or as a .tar of one, which can be imported again."""
    if (to is None) == (also_to is None):
        raise LocalProblem(f"Say once where to write it: shoal export {model} DIR, or --to FILE.tar.")
    name, version = named(model)
    with connect(url, api_key) as client:
        number = resolved(client, name, version)
        written = client.export(name, number, to or also_to or "")
    output.say((f"{name}@{number}", "bold green"), f" is in {written}")
