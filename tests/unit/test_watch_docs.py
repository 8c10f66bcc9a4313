"""docs/operations.md says what can be watched, in the words of the code."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client.metrics import MetricWrapperBase

from service import metrics
from service.exposition import FAMILIES
from tests.watch_files import queries

PAGE = Path(__file__).parents[2] / "docs/operations.md"


def exported() -> list[tuple[str, str, tuple[str, ...], str]]:
    """Name, kind, labels and help of every metric that is Shoal's."""
    counted = [each for each in vars(metrics).values() if isinstance(each, MetricWrapperBase)]
    found = [(family.name, family.kind, family.labels, family.help) for family in FAMILIES.values()]
    for each in counted:
        (family,) = each.describe()
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found.append((name, family.type, tuple(each._labelnames), family.documentation))
    return sorted(found)


def test_the_table_of_metrics_is_what_is_exported() -> None:
    """A row for each metric and no other, with its kind, its labels and its own words."""
    table = PAGE.read_text(encoding="utf-8").partition("\n| metric |")[2].partition("\n\n")[0]
    rows = [
        f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {says} |".replace("|  |", "| |")
        for name, kind, labels, says in exported()
    ]
    assert sorted(table.splitlines()[2:]) == sorted(rows), "\n".join(rows)


def test_no_panel_leaves_out_what_has_no_label_of_its_own() -> None:
    """Every choice of versions among what is counted of them has the base and ``other``, too."""
    counted = ("shoal_requests_total", "shoal_request_seconds", "shoal_time_to", "shoal_output", "shoal_shadow")
    chosen = [
        (panel, pattern)
        for panel, expression, _ in queries()
        for name, pattern in re.findall(r'(\w+)\{version=~"([^"]*)"', expression)
        if name.startswith(counted)
    ]
    assert len(chosen) >= 11
    for panel, pattern in chosen:
        assert all(re.fullmatch(pattern, label) for label in ("bot@7", "base", "other")), f"{panel}: {pattern}"


def test_names_and_units_are_as_prometheus_has_them() -> None:
    """Counters end in _total and nothing else does; base units at the end; every metric says what it is, in a sentence."""
    for name, kind, labels, says in exported():
        assert name.startswith("shoal_"), name
        assert (kind == "counter") == name.endswith("_total"), name
        assert not any(unit in name for unit in ("_ms", "milli", "minutes", "_mb", "percent")), name
        assert says.endswith("."), name
        assert "le" not in labels, name
