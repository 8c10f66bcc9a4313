"""`shoal search` and `shoal compare` as they are typed: what is printed, where, and with which exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shoal.cli import app as cli
from swarm_worker.offline import config as configs
from swarm_worker.offline.scene import Scene
from tests.unit.toy_engine import ToyEngine
from tests.unit.toy_scene import make_scene

Shoal = Callable[..., tuple[int, str, str]]


@pytest.fixture
def shoal(capsys: pytest.CaptureFixture[str]) -> Shoal:
    """Run a command line: (exit code, stdout, stderr)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.run(list(arguments))
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ToyEngine:
    """Every config is the toy scene, on this engine."""
    toy = ToyEngine(noise=0.2)
    scene = make_scene(tmp_path, toy)
    monkeypatch.setattr(configs, "load", lambda file: scene.config)
    monkeypatch.setattr(Scene, "of", lambda config: scene)
    monkeypatch.chdir(tmp_path)
    return toy


@pytest.mark.usefixtures("engine")
def test_search_prints_what_it_found_and_where_it_lies(shoal: Shoal) -> None:
    """A formula, a table, the decision in words; by default below .shoal/search."""
    code, out, err = shoal("search", "--config", "my.yaml")
    result = json.loads(Path(".shoal/search/my/run.json").read_text())
    assert code == 0
    assert out.startswith(result["formula"])
    assert "found minus" in out
    assert ".shoal/search/my/adapter" in out
    assert "100%" in err
    assert shoal("search", "-c", "my.yaml", "--json")[1] == Path(".shoal/search/my/run.json").read_text()


def test_ctrl_c_says_how_to_go_on(engine: ToyEngine, shoal: Shoal) -> None:
    """Exit code 130 as of any interrupted command; the command that it names ends the search."""
    engine.dies_after = 3
    code, out, err = shoal("search", "--config", "my.yaml", "--out", "here")
    assert (code, out) == (130, "")
    assert "Stopped; what was found so far is in here. To go on: shoal search --config my.yaml --out here" in err
    assert len(json.loads(Path("here/state.json").read_text())["generations"]) == 3
    engine.dies_after = None
    assert shoal("search", "--config", "my.yaml", "--out", "here")[0] == 0


@pytest.mark.usefixtures("engine")
def test_compare_prints_one_table(shoal: Shoal) -> None:
    """A line a method, best first; who did not run is said below; --json is the whole result."""
    arguments = ("compare", "-c", "my.yaml", "--methods", "best_expert,data_merge,cma_es", "--seeds", "0,1")
    code, out, _ = shoal(*arguments)
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("method")
    assert {lines[1].split()[0], lines[2].split()[0]} == {"best_expert", "cma_es"}
    assert lines[3].startswith("data_merge did not run: ")
    result: dict[str, Any] = json.loads(shoal(*arguments, "--json")[1])
    assert result["seeds"] == [0, 1]
    assert "| cma_es |" in Path(".shoal/compare/my/compare.md").read_text()


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--methods", "pso"), "--methods: there is no 'pso'"),
        (("--seeds", "0,x"), "--seeds must be different whole numbers"),
        (("--seeds", "1,1"), "--seeds must be different whole numbers"),
    ],
)
def test_what_cannot_be_done_is_one_line(shoal: Shoal, arguments: tuple[str, ...], told: str) -> None:
    """On stderr, with exit code 1 and no traceback."""
    code, out, err = shoal("compare", "-c", "my.yaml", *arguments)
    assert (code, out) == (1, "")
    assert told in err
    assert len(err.splitlines()) == 1


def test_a_bad_config_is_one_line_a_field(tmp_path: Path, shoal: Shoal) -> None:
    """Which names the file and the field."""
    file = tmp_path / "run.yaml"
    file.write_text("utlity: exact_match\n")
    code, _, err = shoal("search", "--config", str(file))
    assert code == 1
    assert f"{file}: utlity: there is no such key" in err
    assert "Traceback" not in err
