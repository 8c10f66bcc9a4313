"""Lineage trees and their graphs: each version read once, any depth, labels that cannot break the text."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import Any

import pytest

from registry.canonical import digest
from registry.errors import VersionUnknown
from registry.lineage import DEPTH, lineage_tree
from registry.records import ExpertRef, Hull, Lineage, Version, now
from shoal.cli.lineage_graph import dot, mermaid

NASTY = 'a "b" \\ <script>|]; --> x\n%% #35; ünï'


def version(number: int, *experts: int, label: str = "", **changes: Any) -> Version:
    made = None
    if experts:
        made = Lineage(
            run_id=f"run-{number}",
            experts=tuple(ExpertRef(version=e, digest=digest(e), name=f"e{e}") for e in experts),
            coefficients=tuple(0.5 - place for place in range(len(experts))),
            space="delta",
            formula="...",
            rank=4,
            retained_energy=1.0,
            optimizer="cma_es",
            seed=7,
            snapshot=digest("snapshot"),
            gate={"reason": "better"},
        )
        made = made.model_copy(update=changes)
    return Version(
        adapter="bot",
        version=number,
        digest=digest(number),
        label=label,
        rank=4,
        size=1,
        created_at=now(),
        created_by="t",
        lineage=made,
        origin="run" if experts else "import",
    )


class Held:
    """Versions by number, and which were asked for."""

    def __init__(self, *versions: Version) -> None:
        self.versions = {one.version: one for one in versions}
        self.asked: list[int] = []

    def __call__(self, number: int) -> Version:
        self.asked.append(number)
        if number not in self.versions:
            raise VersionUnknown("bot", number)
        return self.versions[number]


def test_only_what_the_tree_names_is_read_and_each_once() -> None:
    """Of many versions four are read, once each; run, seed, snapshot and gate stand in the node."""
    held = Held(version(1), version(2), version(3, 1, 2), version(4, 3, 1, 3), *(version(n) for n in range(5, 100)))
    tree = lineage_tree(held, 4)
    assert sorted(held.asked) == [1, 2, 3, 4]
    assert (tree["run_id"], tree["seed"], tree["gate"]) == ("run-4", 7, {"reason": "better"})
    assert [one["version"] for one in tree["experts"][0]["experts"]] == [1, 2]
    assert tree["experts"][2]["repeated"]
    assert [one["coefficient"] for one in tree["experts"]] == [0.5, -0.5, -1.5]


def test_a_line_of_any_length_is_read_without_recursion() -> None:
    """Three thousand versions, each from the one before: a tree as deep as was asked, and JSON of the usual depth."""
    line = [version(1), *(version(n, n - 1) for n in range(2, 3001))]
    node = lineage_tree(Held(*line), 3000, depth=5000)
    for _ in range(2999):
        node = node["experts"][0]
    assert node["origin"] == "import"
    node = lineage_tree(Held(*line), 3000)
    assert json.loads(json.dumps(node)) == node
    for _ in range(DEPTH):
        node = node["experts"][0]
    assert node["deeper"]
    assert "experts" not in node


def test_a_hull_of_layer_groups_and_copies_gives_an_expert_several_coefficients() -> None:
    """Two groups of (two experts, one copy each, the base): of an expert four numbers."""
    made = version(
        3,
        1,
        2,
        hull=Hull(layer_groups=2, sparse_copies=1, include_base=True),
        coefficients=tuple(map(float, range(10))),
    )
    assert [one["coefficients"] for one in lineage_tree(Held(version(1), version(2), made), 3)["experts"]] == [
        [0.0, 2.0, 5.0, 7.0],
        [1.0, 3.0, 6.0, 8.0],
    ]


@pytest.fixture
def tree() -> dict[str, Any]:
    return lineage_tree(Held(version(1, label=NASTY), version(2), version(3, 1, 2), version(4, 3, 1)), 4)


def test_dot_is_valid_whatever_a_label_holds(tree: dict[str, Any]) -> None:
    """Every line is a node or an arrow between nodes; Graphviz itself reads it where it is installed."""
    text = dot(tree)
    assert text == dot(tree)
    string = r'"(?:[^"\\\n]|\\.)*"'
    inner = text.splitlines()[3:-1]
    assert all(re.fullmatch(rf"  n\d+(?: -> n\d+)? \[label={string}\];", line) for line in inner), text
    assert sum(" -> " in line for line in inner) == 4
    assert len(inner) == 8
    if shutil.which("dot"):
        subprocess.run(["dot", "-Tsvg"], input=text.encode(), check=True, capture_output=True)


def test_mermaid_is_valid_whatever_a_label_holds(tree: dict[str, Any]) -> None:
    """Labels hold letters, digits and numbered entities only: nothing in them is syntax."""
    lines = mermaid(tree).splitlines()
    assert lines[0] == "flowchart BT"
    label = r'"(?:[\w @:.,+\-/()]|#\d+;|<br/>)*"'
    assert all(re.fullmatch(rf"  n\d+(?:\[{label}\]| -->\|{label}\| n\d+)", line) for line in lines[1:]), lines
    assert len(lines) == 9
