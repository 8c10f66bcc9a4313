"""What deploy/ asks of the metrics: the queries of the dashboards, the expressions of the alerts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml
from prometheus_client.parser import text_string_to_metric_families

from service.exposition import FAMILIES
from tests.promql import NotExported, labels_of

DEPLOY = Path(__file__).parents[1] / "deploy"
DASHBOARDS = DEPLOY / "grafana/dashboards"
ALERTS = DEPLOY / "prometheus/alerts.yml"
VARIABLES = {"$__rate_interval": "1m", "$__range": "1h", "$adapter": ".*"}


def queries() -> Iterator[tuple[str, str, str]]:
    """Panel, expression and legend of every query of every dashboard, with Grafana's variables filled in."""
    for path in sorted(DASHBOARDS.glob("*.json")):
        for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]:
            for target in panel.get("targets", ()):
                yield f"{path.name}: {panel['title']}", filled(target["expr"]), target["legendFormat"]


def alerts() -> dict[str, dict[str, str]]:
    """Every alert by name."""
    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def filled(expression: str) -> str:
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    return expression


def exported(scrape: str) -> dict[str, frozenset[str]]:
    """The names in a scrape, each with its labels; of a family that says nothing now, the labels that it declares."""
    found: dict[str, frozenset[str]] = {}
    for family in text_string_to_metric_families(scrape):
        if not family.samples:
            declared = FAMILIES[f"{family.name}_total" if family.type == "counter" else family.name]
            found[declared.name] = frozenset(declared.labels)
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, frozenset()) | sample.labels.keys()
    return found


def check_query(panel: str, expression: str, legend: str, known: Mapping[str, frozenset[str]]) -> None:
    """Every name and label is there, and the legend names only labels that the answer carries."""
    try:
        carried = labels_of(expression, known)
    except (NotExported, ValueError) as error:
        raise AssertionError(f"{panel}: {error}\n{expression}") from error
    assert set(re.findall(r"{{(\w+)}}", legend)) <= carried, f"{panel}: {legend} of {expression}"
