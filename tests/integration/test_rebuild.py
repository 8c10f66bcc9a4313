"""``shoal rebuild`` against a real service: versions and weights over ``/api``, verified here, mixed here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from registry.artifacts import digest_of_folder
from registry.canonical import digest
from registry.records import ExpertRef, Lineage, Version
from registry.registry import Registry
from registry.settings import RegistrySettings
from shoal.cli import app as cli
from shoal.cli import plugins
from shoal.ports import free_port
from swarm_worker.environment import here
from swarm_worker.materialise import materialise
from tests.peft_folders import write_adapter
from tests.stub_service import StubService, running

BOT = "bot"
POSITION = (0.9, -0.5)
Rebuild = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def settings(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> RegistrySettings:
    folder = tmp_path_factory.mktemp("rebuild")
    return RegistrySettings(
        redis_url=redis_url,
        namespace="rebuild",
        artifacts_url=str(folder / "artifacts"),
        cache_dir=str(folder / "cache"),
    )


@pytest.fixture(scope="module")
def registry(settings: RegistrySettings) -> Iterator[Registry]:
    opened = Registry.open(settings)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def url(registry: Registry, settings: RegistrySettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Two experts and a service; the mixes are each test's own."""
    folder = tmp_path_factory.mktemp("service")
    for number in range(2):
        registry.register(BOT, write_adapter(folder / f"e{number}", seed=number), by="test", label=f"e{number}")
    registry.promote(BOT, 1, by="test")
    service = StubService(settings, home_of(settings) / "service")
    with running(service):
        yield service.url


@pytest.fixture
def rebuild(url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Rebuild:
    """Run a command line as ``shoal`` does, also where this checkout is not what is installed: (exit code, all it said)."""
    point = EntryPoint("rebuild", "swarm_worker.rebuild_cli:app", plugins.GROUP)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point])

    def run(*arguments: str, at: str = url) -> tuple[int, str]:
        code = cli.run(["rebuild", *arguments, "--url", at])
        out, err = capsys.readouterr()
        return code, out + err

    return run


def mixed(registry: Registry, folder: Path, position: tuple[float, ...], told: tuple[float, ...] = ()) -> Version:
    """Register a mix as a run does; ``told``: what its lineage says, where that is not the truth."""
    experts = [registry.version(BOT, number) for number in (1, 2)]
    folders = [registry.artifacts.fetch(expert.digest) for expert in experts]
    cut = materialise(folders, position, folder, space="delta", max_rank=6)
    lineage = Lineage(
        run_id="run-1",
        experts=tuple(ExpertRef(version=one.version, digest=one.digest, name=one.label) for one in experts),
        coefficients=told or position,
        space="delta",
        formula="...",
        rank=cut.rank,
        retained_energy=cut.retained_energy,
        optimizer="cma_es",
        seed=0,
        snapshot=digest("snapshot"),
        environment=here(),
    )
    version, new = registry.register(BOT, folder, by="test", origin="run", lineage=lineage)
    assert new
    return version


def home_of(settings: RegistrySettings) -> Path:
    """The folder of the store and of every cache."""
    return Path(settings.artifacts_url).parent


def lose(settings: RegistrySettings, version: Version) -> None:
    """Take the bytes out of the store and out of every cache."""
    name = version.digest.removeprefix("sha256:")
    held = [path for path in home_of(settings).rglob(f"*{name}*") if path.is_dir()]
    assert held
    for folder in held:
        shutil.rmtree(folder)


def test_a_mix_is_made_again_kept_and_registered_as_the_version_that_it_is(
    registry: Registry, rebuild: Rebuild, tmp_path: Path
) -> None:
    """The same bytes, cut and with a negative coefficient, of an expert that has been retired since."""
    version = mixed(registry, tmp_path / "mix", POSITION)
    registry.retire(BOT, 2, by="test")
    code, said = rebuild(version.engine_name, "--to", str(tmp_path / "kept"))
    assert (code, said.splitlines()[0]) == (0, f"{version.engine_name}: the same bytes again, {version.digest}.")
    assert digest_of_folder(tmp_path / "kept") == version.digest
    again, new = registry.register(BOT, tmp_path / "kept", by="test")
    assert (again.version, new) == (version.version, False)
    assert rebuild(version.engine_name, "--to", str(tmp_path / "kept"))[1].endswith("nothing is overwritten.\n")


@pytest.mark.parametrize(("off", "outcome", "exit_code"), [(1e-7, "equal", 0), (0.5, "different", 1)])
def test_a_lineage_that_makes_other_bytes_is_told_by_how_much(
    registry: Registry, rebuild: Rebuild, tmp_path: Path, off: float, outcome: str, exit_code: int
) -> None:
    """Within 1e-5: equal, exit code 0; else 1, with the largest difference and its module."""
    position = (1e-4 + off, 0.0) if outcome == "equal" else (0.2 + off, -0.3)
    told = (1e-4, 0.0) if outcome == "equal" else (0.2, -0.3)
    version = mixed(registry, tmp_path / "mix", position, told)
    code, said = rebuild(version.engine_name, "--json")
    found = json.loads(said[: said.rindex("}") + 1])
    assert (code, found["outcome"]) == (exit_code, outcome)
    assert (found["largest_difference"] <= 1e-5) == (outcome == "equal")
    code, said = rebuild(version.engine_name)
    assert code == exit_code
    assert found["module"] in said
    assert f"{found['largest_difference']:.3g}" in said


def test_an_import_is_said_to_be_one(rebuild: Rebuild, tmp_path: Path) -> None:
    """Its bytes are fetched and verified; the champion is meant where no version is named."""
    code, said = rebuild(BOT, "--to", str(tmp_path / "kept"))
    assert code == 0
    assert "bot@1 is an import" in said
    assert (tmp_path / "kept" / "adapter_config.json").is_file()


def test_lost_bytes_come_back_and_an_experts_are_one_clear_line(
    registry: Registry, settings: RegistrySettings, rebuild: Rebuild, tmp_path: Path
) -> None:
    """A mix whose bytes are gone is the same again; one whose expert is gone cannot be made, and the line says what helps."""
    version, expert = mixed(registry, tmp_path / "mix", (0.4, 0.4)), registry.version(BOT, 2)
    shutil.copytree(registry.artifacts.fetch(expert.digest), tmp_path / "expert")
    lose(settings, version)
    assert not registry.artifacts.has(version.digest)
    code, said = rebuild(version.engine_name, "--to", str(tmp_path / "kept"))
    assert (code, said.splitlines()[0]) == (0, f"{version.engine_name}: the same bytes again, {version.digest}.")
    assert registry.register(BOT, tmp_path / "kept", by="test") == (version, False)
    assert registry.artifacts.has(version.digest)
    lose(settings, expert)
    code, said = rebuild(version.engine_name)
    assert code == 1
    assert said.startswith(f"{version.engine_name} cannot be rebuilt: its expert e1 (bot@2) has no bytes any more")
    assert said.count("\n") == 1
    registry.register(BOT, tmp_path / "expert", by="test")
    assert rebuild(version.engine_name)[0] == 0


def test_what_is_not_there_is_one_line(rebuild: Rebuild, tmp_path: Path) -> None:
    """An unknown adapter or version, a name that is none, nobody who answers, a folder that cannot be one."""
    (tmp_path / "file").touch()
    assert "cannot be written: " in rebuild("bot@1", "--to", str(tmp_path / "file" / "kept"))[1]
    assert rebuild("nobody@1") == (1, "There is no adapter 'nobody'. `shoal adapters` lists those there are.\n")
    assert rebuild("bot@99") == (1, "There is no version bot@99. `shoal versions bot` lists those there are.\n")
    assert rebuild("bot@latest")[1].startswith("'latest' is not a version")
    code, said = rebuild("bot@1", at=f"http://127.0.0.1:{free_port()}")
    assert code == 1
    assert "is `shoal up` running?" in said
