"""What can be set, typed or called is documented, and README's links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

from registry.settings import RegistrySettings
from service.settings import ServiceSettings
from shoal.settings import UpSettings
from swarm_worker.settings import WorkerSettings

ROOT = Path(__file__).parents[2]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("settings", [RegistrySettings, ServiceSettings, UpSettings, WorkerSettings])
def test_every_setting_is_documented_as_it_describes_itself(settings: type[BaseSettings]) -> None:
    """docs/settings.md has a row for each variable, with the words of the code."""
    documented = text("docs/settings.md")
    for name, field in settings.model_fields.items():
        assert f"`SHOAL_{name.upper()}`" in documented
        assert field.description is not None
        assert field.description in documented


def test_every_command_is_documented() -> None:
    """docs/commands.md names each command of the command line."""
    import typer.main

    from shoal.cli.app import build

    documented = text("docs/commands.md")
    commands = typer.main.get_command(build())
    for name in commands.list_commands(None):  # type: ignore[attr-defined]
        assert f"`shoal {name}" in documented, name


def test_every_route_is_documented() -> None:
    """docs/api.md names each route of the service."""
    from service.app import make_app

    documented = text("docs/api.md")
    for path in make_app().openapi()["paths"]:
        last = path.replace("{version}", "{v}").replace("{run_id}", "{id}").replace("{model}", "")
        assert last.rstrip("/") in documented, path


@pytest.mark.parametrize("page", ["README.md", "docs/architecture.md", "docs/api.md", "docs/log.md"])
def test_links_lead_somewhere(page: str) -> None:
    """A relative link names a file of the repository."""
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)\)", text(page)):
        assert ((ROOT / page).parent / target).exists(), target


def test_the_map_of_the_house_names_files_that_exist() -> None:
    """Every file that docs/architecture.md points to is there."""
    for name in re.findall(
        r"`((?:registry|service|shoal|swarm_worker|starter)/[\w./]+\.py)`", text("docs/architecture.md")
    ):
        assert (ROOT / name).is_file(), name
