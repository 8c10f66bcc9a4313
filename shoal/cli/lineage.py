"""``shoal lineage``: what a version is made of, down to the experts that were imported."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from rich.text import Text
from rich.tree import Tree

from shoal.cli import output
from shoal.cli.lineage_graph import GRAPHS, weight
from shoal.cli.options import ApiKey, Json, Url, connect, named, resolved
from shoal.errors import LocalProblem


def lineage(
    model: Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="Without a version: the champion.")],
    url: Url = None,
    api_key: ApiKey = None,
    json: Json = False,
    graph: Annotated[
        str, typer.Option("--graph", help="Print a graph instead: dot (Graphviz) or mermaid.", show_default=False)
    ] = "",
) -> None:
    """Draw what a version is made of: its formula, and each expert with its coefficient."""
    if graph and graph not in GRAPHS:
        raise LocalProblem(f"--graph must be {' or '.join(GRAPHS)}, not '{graph}'.")
    name, version = named(model)
    with connect(url, api_key) as client:
        tree = client.lineage(name, resolved(client, name, version))
    if json:
        output.print_json(tree)
        return
    if graph:
        sys.stdout.write(GRAPHS[graph](tree))
        return
    drawn = Tree(_line(tree))
    _grow(drawn, tree)
    output.console().print(drawn)


def _grow(branch: Tree, node: dict[str, Any]) -> None:
    if node.get("formula"):
        branch.add(Text(node["formula"], style="bold"))
    told = [
        f"run {node['run_id']}" if node.get("run_id") else "",
        f"by {node['optimizer']} in {node.get('space', '?')} space" if node.get("optimizer") else "",
        f"{output.percent(node['retained_energy'])} of its energy kept"
        if node.get("retained_energy") is not None
        else "",
        f"feedback {node['snapshot'][:19]}" if node.get("snapshot") else "",
        f"seed {node['seed']}" if node.get("seed") is not None else "",
    ]
    if (trained := node.get("training")) is not None:
        told.append(
            f"{trained['steps']} steps of {trained['batch']} items at rate {trained['rate']:g} from {trained['start']}, on "
            f"{trained['items']} items"
        )
    if any(told):
        branch.add(Text(", ".join(part for part in told if part), style="dim"))
    if (node.get("gate") or {}).get("reason"):
        branch.add(Text(f"gate: {node['gate']['reason']}", style="dim"))
    for expert in node.get("experts") or ():
        _grow(branch.add(_line(expert)), expert)


def _line(node: dict[str, Any]) -> Text:
    share = weight(node) + " " if weight(node) else ""
    name = f"{node['adapter']}@{node['version']}" if node.get("adapter") else str(node.get("name", ""))
    label = str(node.get("name") or "")
    told = [label if label != name else "", str(node.get("origin") or ""), str(node.get("digest") or "")[:19]]
    told += [str(node["source"])] if node.get("source") else []
    told += [str(node["note"])] if node.get("origin") == "import" and node.get("note") else []
    told += ["retired"] if node.get("retired") else []
    told += ["drawn above"] if node.get("repeated") else []
    told += [f"goes on: shoal lineage {name}"] if node.get("deeper") else []
    return Text.assemble((share, "cyan"), name, (f"  {', '.join(part for part in told if part)}", "dim"))
