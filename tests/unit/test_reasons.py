"""Every reason for which weights are refused is documented, and nothing else is."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.unit.test_docs import ROOT, rows

CALLS = {"AdapterRefused": 0, "HeaderWrong": 1}  # which argument is the reason; HeaderWrong's becomes AdapterRefused's


def raised(path: Path) -> set[str]:
    """The reasons that a file gives, through the names and tables that its calls use."""
    tree = ast.parse(path.read_text())
    held: dict[str, list[ast.expr]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AugAssign | ast.NamedExpr):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name):
                    held.setdefault(target.id, []).append(node.value)

    def reasons(node: ast.expr) -> Iterator[str]:
        match node:
            case ast.Constant(value=str(reason)):
                yield reason
            case ast.IfExp():
                yield from reasons(node.body)
                yield from reasons(node.orelse)
            case ast.Name():
                for value in held.get(node.id, []):
                    yield from reasons(value)
            case ast.Dict():
                for value in node.values:
                    yield from reasons(value)
            case ast.Call(func=ast.Attribute(attr="get")):
                yield from reasons(node.func.value)
                for value in node.args[1:]:
                    yield from reasons(value)

    found: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=name)) if name in CALLS:
                place = CALLS[name]
                assert len(node.args) > place, f"{path.name}:{node.lineno} gives no reason"
                found |= set(reasons(node.args[place]))
    return found


def test_every_reason_of_a_refusal_is_documented() -> None:
    """The table of docs/api.md names the reasons of the code, no fewer and no more."""
    code = set().union(*(raised(path) for path in sorted((ROOT / "registry").glob("*.py"))))
    assert rows("docs/api.md", "reason") == code


def test_every_reason_is_shown_by_an_upload() -> None:
    """What no upload of the table shows cannot come in an archive, or is shown elsewhere."""
    from tests.unit.test_hostile_uploads import ROWS

    elsewhere = {
        "link",  # archives hold none; folders: test_inspection
        "too_big",  # an archive that unpacks to as much is refused before; folders: test_inspection
        "config_missing",  # an archive without one holds no adapter; folders: test_inspection
    }
    assert rows("docs/api.md", "reason") - {reason for _, reason, _ in ROWS} <= elsewhere
