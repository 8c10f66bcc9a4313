"""`shoal analyse`: parse, look, print."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from registry.errors import BadInput
from swarm_worker.offline.console import open_console

if TYPE_CHECKING:
    from swarm_worker.analyses import Finding, Subject
    from swarm_worker.offline.config import RunConfig
    from swarm_worker.offline.scene import Scene

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

EVALUATIONS = 200
"""Of a search whose config names no budget."""

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="emergence, diamonds, weak_to_strong, diversity, ablations, dropout or trajectories."
    ),
]
Config = Annotated[Path, typer.Option("--config", "-c", help="A run.yaml; docs/search.md says what may stand in it.")]
Out = Annotated[Path | None, typer.Option(help="Folder of NAME.json and NAME.png; .shoal/analyses unless told.")]
Seeds = Annotated[int, typer.Option(min=1, help="Searches of each kind, seeds counted up from the config's.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.command()
def analyse(name: Name, config: Config, out: Out = None, seeds: Seeds = 3, as_json: AsJson = False) -> None:
    """An analysis of Model Swarms' paper on your experts, beside its null: a table, NAME.json and NAME.png."""
    with open_console(stderr=True).status("loading") as status:
        try:
            finding, value = look(name, config, seeds, status.update)
            file = write(finding, value, out or Path(".shoal") / "analyses")
        except (ValueError, FileNotFoundError) as error:
            raise BadInput(str(error)) from error
    if as_json:
        sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
        return
    console = open_console()
    show(finding, console)
    console.print(Text(f"{file}, {file.with_suffix('.png')}"))


def look(name: str, config: Path, seeds: int, watch: Any) -> tuple[Finding, dict[str, Any]]:
    """What the analysis finds, and the JSON value of it that says what it was found on."""
    from swarm_worker.analyses import ANALYSES
    from swarm_worker.offline import config as configs
    from swarm_worker.offline.scene import versions

    if name not in ANALYSES:
        raise ValueError(f"NAME must be one of {', '.join(ANALYSES)}, not {name!r}")
    scene = scene_of(configs.load(config))
    subject = subject_of(scene, seeds, watch)
    finding = ANALYSES[name].look(subject)
    told = {
        "question": ANALYSES[name].question,
        "seeds": list(subject.seeds),
        "evaluations": subject.evaluations,
        "options": dict(subject.options),
        "space": subject.search.space,
        "score": subject.search.utility.name,
        "utility": subject.test.utility.name,
        "items": {"search": len(subject.search.items), "test": len(subject.test.items)},
        "run": scene.identity(),
        "versions": versions(),
    }
    return finding, finding.to_json() | {"subject": told}


def scene_of(config: RunConfig) -> Scene:
    """The config's scene, with the paper's space and score where ``hull.space`` and ``score`` are not given. Whatever its
    ``preset``: an analysis is of the paper's swarm."""
    from swarm_worker.offline.scene import Scene

    return Scene.of(config.model_copy(update={"preset": "paper"}))


def subject_of(scene: Scene, seeds: int, watch: Any) -> Subject:
    """The config's experts, items, utilities and budget. Its optimiser is heeded where it is ``model_swarms``: the analyses
    are of that swarm, by the paper's rules unless the config says otherwise. Raises ``ValueError`` that names the field."""
    from swarm_worker.analyses import Subject
    from swarm_worker.scorer import Scorer

    if scene.hull.layer_groups > 1:
        raise ValueError(f"hull.layer_groups must be 1 for an analysis, not {scene.hull.layer_groups}")
    if not scene.items.test:
        raise ValueError("data.test: no item is left for the test, on which an analysis stands")
    chosen, options = scene.config.optimizer, {"preset": "paper"}
    if chosen is not None and chosen.name == "model_swarms":
        options = {"preset": chosen.preset or "paper"} | chosen.options
    cache: dict[str, Any] = {}
    search = scene.scorer(cache)
    test = Scorer(
        scene.engine, scene.utility, scene.items.test, space=search.space, reference=scene.reference, cache=cache
    )
    evaluations = EVALUATIONS if scene.budget is None else scene.budget // len(search.items)
    first = scene.config.seed
    names = tuple(scene.hull.names(scene.names))
    return Subject(search, test, names, tuple(range(first, first + seeds)), evaluations, options, watch)


def write(finding: Finding, value: dict[str, Any], folder: Path) -> Path:
    """NAME.json, which is returned, and NAME.png beside it."""
    from swarm_worker.analyses import ANALYSES, plots

    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{finding.name}.json"
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    drawn, axes = plots.figure()
    ANALYSES[finding.name].draw(finding, axes)
    plots.save(drawn, file.with_suffix(".png"))
    return file


def show(finding: Finding, console: Console) -> None:
    """The table and what must be read with it."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in finding.rows[0]:
        table.add_column(column, justify="left" if isinstance(finding.rows[0][column], str) else "right")
    for row in finding.rows:
        table.add_row(*(Text(_shown(value)) for value in row.values()))
    console.print(table)
    for note in finding.notes:
        console.print(Text(note, style="dim"))


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if value == int(value) and abs(value) >= 10 else f"{value:.3f}"
    return str(value)
