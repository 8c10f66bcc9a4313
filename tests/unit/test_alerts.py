"""Each alert of deploy/prometheus fires when it should, by Prometheus's own tool where that is installed."""

from __future__ import annotations

import shutil
import subprocess

import pytest
import yaml

from tests.watch_files import ALERTS, alerts

PROMTOOL = shutil.which("promtool")


def test_every_alert_has_a_case_in_which_it_fires() -> None:
    """deploy/prometheus/alerts_test.yml: once it fires, once it keeps quiet."""
    cases = yaml.safe_load(ALERTS.with_name("alerts_test.yml").read_text())["tests"]
    asked = [rule for case in cases for rule in case["alert_rule_test"]]
    assert {rule["alertname"] for rule in asked if rule.get("exp_alerts")} == set(alerts())
    assert {rule["alertname"] for rule in asked if not rule.get("exp_alerts")} == set(alerts())


@pytest.mark.skipif(PROMTOOL is None, reason="no promtool: apt-get install prometheus")
@pytest.mark.parametrize("command", [("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")])
def test_prometheus_agrees(command: tuple[str, ...]) -> None:
    assert PROMTOOL is not None
    told = subprocess.run(
        [PROMTOOL, *command], cwd=ALERTS.parent, capture_output=True, text=True, timeout=120, check=False
    )
    assert told.returncode == 0, told.stdout + told.stderr
