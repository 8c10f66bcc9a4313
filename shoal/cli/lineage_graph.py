"""A lineage as text that other programs draw: Graphviz's dot, and Mermaid.

One node a version, or an expert that is no version of the adapter; an arrow from each expert to what it was mixed into,
with its coefficient. The order is that of the tree, so that the same lineage is the same text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Edge = tuple[str, str, str]


def weight(node: dict[str, Any]) -> str:
    """An expert's coefficient, or all it has where a hull gave it several: ``+0.43``, ``+0.43 / -0.10``."""
    own = [node["coefficient"]] if node.get("coefficient") is not None else node.get("coefficients") or []
    return " / ".join(f"{one:+.2f}" for one in own)


def dot(tree: dict[str, Any]) -> str:
    """A ``digraph`` that `dot -Tsvg` draws."""
    nodes, edges = _parts(tree)
    lines = [f"  {name} [label={_quoted(chr(10).join(lines))}];" for name, lines in nodes.items()]
    lines += [f"  {child} -> {parent} [label={_quoted(told)}];" for child, parent, told in edges]
    return "\n".join(["digraph lineage {", "  rankdir=BT;", "  node [shape=box];", *lines, "}"]) + "\n"


def mermaid(tree: dict[str, Any]) -> str:
    """A flowchart that GitHub and Mermaid's editor draw."""
    nodes, edges = _parts(tree)
    drawn = [f'  {name}["{"<br/>".join(_entities(line) for line in lines)}"]' for name, lines in nodes.items()]
    drawn += [f'  {child} -->|"{_entities(told)}"| {parent}' for child, parent, told in edges]
    return "\n".join(["flowchart BT", *drawn]) + "\n"


GRAPHS: dict[str, Callable[[dict[str, Any]], str]] = {"dot": dot, "mermaid": mermaid}


def _parts(tree: dict[str, Any]) -> tuple[dict[str, list[str]], list[Edge]]:
    """Lines of each node's label by the node's name, and the arrows."""
    nodes: dict[str, list[str]] = {}
    names: dict[tuple[Any, ...], str] = {}
    edges: list[Edge] = []
    waiting: list[tuple[dict[str, Any], str]] = [(tree, "")]
    while waiting:
        node, parent = waiting.pop()
        known = (
            node.get("adapter"),
            node.get("version"),
            node.get("digest"),
            "" if node.get("adapter") else node["name"],
        )
        name = names.setdefault(known, f"n{len(names)}")
        nodes.setdefault(name, _label(node))
        if parent:
            edges.append((name, parent, weight(node)))
        waiting.extend((expert, name) for expert in reversed(node.get("experts") or []))
    return nodes, edges


def _label(node: dict[str, Any]) -> list[str]:
    model = f"{node['adapter']}@{node['version']}" if node.get("adapter") else str(node.get("name", ""))
    told = [str(node.get("name") or ""), str(node.get("origin") or ""), "retired" if node.get("retired") else ""]
    lines = [model, ", ".join(part for part in told if part and part != model)]
    lines += [str(node.get("run_id") or ""), str(node.get("digest") or "")[:19]]
    return [line for line in lines if line]


def _quoted(text: str) -> str:
    """A string of dot: only the backslash and the quote mean something in it, and a line's end is ``\\n``."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\r", " ").replace("\n", "\\n")
    return f'"{escaped}"'


def _entities(text: str) -> str:
    """Mermaid reads markup, quotes and entities in a label: whatever is not plain is written as its number."""
    plain = " @:.,_+-/()"
    return "".join(one if one.isalnum() or one in plain else f"#{ord(one)};" for one in text)
