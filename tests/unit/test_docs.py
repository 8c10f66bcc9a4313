"""What can be set, typed or called is documented, and README's links lead somewhere."""

from __future__ import annotations

import importlib
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_settings import BaseSettings

from registry.logs import LogSettings
from registry.policy import Policy
from registry.settings import RegistrySettings
from registry.suites import Suite
from service.settings import ServiceSettings
from shoal.errors import ApiError
from shoal.settings import UpSettings
from swarm_worker.settings import WorkerSettings
from tests.unit import fake_shoal
from tests.unit.fake_shoal import FakeShoal

ROOT = Path(__file__).parents[2]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("settings", [LogSettings, RegistrySettings, ServiceSettings, UpSettings, WorkerSettings])
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


@pytest.fixture
def on_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeShoal]:
    """A service that refuses whatever it is asked, and the folder that the page imports."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "again").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / "again" / name).write_text("{}")
    with fake_shoal.serving() as fake:
        monkeypatch.setenv("SHOAL_URL", fake.url)
        monkeypatch.delenv("SHOAL_API_KEY", raising=False)
        yield fake


def test_every_command_of_the_operations_page_is_understood(on_call: FakeShoal) -> None:
    """Each `shoal ...` in docs/operations.md, with its arguments, is one that the command sends to the service, or that a command
    of another package parses: on-call types what it says."""
    import tomllib

    import typer.main

    from shoal.cli.app import build

    contributed = tomllib.loads(text("pyproject.toml"))["project"]["entry-points"]["shoal.commands"]
    app = build()
    root = typer.main.get_command(app)
    typed = re.findall(r"^(shoal [^#\n]+)|`(shoal [a-z][^`]*)`", text("docs/operations.md"), re.M)
    assert len(typed) > 20
    for block, inline in typed:
        _, name, *words = shlex.split((block or inline).replace("$(date +%F)", "2026-11-20"))
        if inline and not words:  # a command's name, in a sentence
            assert name in root.commands or name in contributed, inline  # type: ignore[attr-defined]
        elif name in contributed:
            package, _, command = contributed[name].partition(":")
            typer.main.get_command(getattr(importlib.import_module(package), command)).make_context(name, words)
        else:
            on_call.asked.clear()
            with pytest.raises(ApiError, match="There is nothing at"):
                app(args=[name, *words], prog_name="shoal")
            assert on_call.asked, block or inline


def test_every_route_is_documented() -> None:
    """docs/api.md names each route of the service."""
    from service.app import make_app

    documented = text("docs/api.md")
    for path in make_app().openapi()["paths"]:
        last = path.replace("{version}", "{v}").replace("{run_id}", "{id}").replace("{model}", "")
        assert last.rstrip("/") in documented, path


def rows(page: str, header: str) -> set[str]:
    """What the first column of a table of a page names, in backticks."""
    table = text(page).partition(f"\n| {header} |")[2].partition("\n\n")[0]
    return {name for line in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", line.split("|")[1])}


def test_every_utility_optimizer_preset_and_baseline_is_documented() -> None:
    """The tables of docs/search.md name what there is, and nothing else."""
    from swarm_worker.baselines import BASELINES
    from swarm_worker.presets import PRESETS
    from swarm_worker.search import OPTIMIZERS
    from swarm_worker.utilities import UTILITIES

    assert rows("docs/search.md", "utility") == set(UTILITIES)
    assert rows("docs/search.md", "optimiser") == set(OPTIMIZERS)
    assert rows("docs/search.md", "preset") == set(PRESETS)
    assert rows("docs/search.md", "baseline") == set(BASELINES)


def test_every_key_of_a_run_is_documented() -> None:
    """docs/search.md has a row for each key of run.yaml, and names the keys below it."""
    from swarm_worker.offline.config import BudgetConfig, DataConfig, HullConfig, RacingConfig, RunConfig
    from swarm_worker.offline.engines import ENGINES

    assert rows("docs/search.md", "key") == set(RunConfig.model_fields)
    documented = text("docs/search.md")
    for model in (BudgetConfig, DataConfig, HullConfig, RacingConfig):
        for key in model.model_fields:
            assert f"`{key}`" in documented, key
    for engine in ENGINES:
        assert f"`{engine}`" in documented, engine


def test_every_utility_of_a_table_has_an_example_that_reads() -> None:
    """docs/examples has a config for each objective; what its first lines say to type names that file."""
    from swarm_worker.offline import config as configs
    from swarm_worker.utilities import UTILITIES

    examples = sorted((ROOT / "docs/examples").glob("*.yaml"))
    assert {configs.load(example).utility.name for example in examples} == set(UTILITIES) - {"likelihood"}
    for example in examples:
        assert f"# shoal search --config docs/examples/{example.name}" in example.read_text()


def test_the_data_of_the_examples_are_as_they_are_drawn() -> None:
    """`python -m starter.examples` would write the same bytes."""
    from starter import examples

    folder = ROOT / "docs/examples/data"
    assert {path.name for path in folder.iterdir()} == set(examples.DATA)
    for name in examples.DATA:
        assert (folder / name).read_text() == examples.content(name), name


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/architecture.md",
        "docs/api.md",
        "docs/log.md",
        "docs/search.md",
        "docs/commands.md",
        "docs/operations.md",
    ],
)
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


def test_every_field_of_a_policy_is_documented() -> None:
    """docs/adaptation.md (of a snapshot's filter, docs/snapshots.md) names each field, those of the records in it, too."""
    documented = text("docs/adaptation.md") + text("docs/snapshots.md")

    def fields(record: type[BaseModel]) -> Iterator[str]:
        for name, field in record.model_fields.items():
            yield field.alias or name
            for kind in kinds(field.annotation):
                yield from fields(kind)

    def kinds(annotation: Any) -> list[type[BaseModel]]:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return [annotation]
        return [kind for part in getattr(annotation, "__args__", ()) for kind in kinds(part)]

    for name in {*fields(Policy), *fields(Suite)} - {"schema_number"}:
        assert re.search(
            rf"`{name}`|`[a-z_]+\.{name}`|^\s*(- )?{name}:|\"{name}\"|[{{,] ?{name}[,:}}]", documented, re.M
        ), name


def test_every_policy_and_suite_that_is_shown_is_one() -> None:
    """Each block of YAML in docs/adaptation.md reads as a policy, each of JSON as a suite."""
    import yaml

    blocks = re.findall(r"```(yaml|json)\n(.*?)```", text("docs/adaptation.md"), re.S)
    assert {language for language, _ in blocks} == {"yaml", "json"}
    for language, block in blocks:
        if language == "yaml":
            Policy.read(yaml.safe_load(block))
        else:
            Suite.read(json.loads(block))
