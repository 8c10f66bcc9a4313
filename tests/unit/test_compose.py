"""docker-compose.yml runs what ``shoal up`` runs."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import yaml

from shoal.processes import processes
from shoal.settings import UpSettings

COMPOSE = Path(__file__).parents[2] / "docker-compose.yml"
DIFFERENT = {"--loglevel": 2, "-s": 2, "--host": 2, "--port": 2}
"""Options (and how many words each takes) that depend on the machine."""


def essence(words: list[str]) -> list[str]:
    """A command without its interpreter and without what depends on the machine."""
    kept, skip = [], 0
    for word in words[1:]:
        if skip:
            skip -= 1
        elif word in DIFFERENT:
            skip = DIFFERENT[word] - 1
        else:
            kept.append(word)
    return sorted(kept)


def test_every_process_of_shoal_up_is_a_service_with_the_same_command() -> None:
    """Control worker, scoring worker, beat and service, on CPU and on GPU."""
    services: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]
    for spec in processes(UpSettings()):
        for name in (spec.name, f"{spec.name}-gpu"):
            if name == spec.name or name in services:
                assert essence(shlex.split(services[name]["command"])) == essence(list(spec.command)), name


def test_redis_keeps_what_it_is_given() -> None:
    """Append-only file on, nothing evicted: it is a registry, not a cache."""
    command = yaml.safe_load(COMPOSE.read_text())["services"]["redis"]["command"]
    assert "--appendonly yes" in command
    assert "--appendfsync always" in command
    assert "--maxmemory-policy noeviction" in command


def test_what_watches_finds_its_files_and_its_key() -> None:
    """The profile `watch`: each mounted file is in the repository, Prometheus scrapes every service, with the key."""
    compose: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    watching = {name: each for name, each in compose["services"].items() if each.get("profiles") == ["watch"]}
    assert set(watching) == {"prometheus", "grafana"}
    for each in watching.values():
        mounted = [volume.partition(":")[0] for volume in each["volumes"] if volume.startswith(".")]
        assert mounted
        assert all((COMPOSE.parent / path).exists() for path in mounted), mounted
        assert all(port.startswith("127.0.0.1:") for port in each["ports"])
    (job,) = yaml.safe_load((COMPOSE.parent / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
    (targets,) = job["dns_sd_configs"]
    assert set(targets["names"]) == {name for name in compose["services"] if name.startswith("service")}
    (secret,) = compose["secrets"]
    assert job["authorization"]["credentials_file"] == f"/run/secrets/{secret}"
    assert watching["prometheus"]["secrets"] == [secret]
