"""`shoal search` and `shoal compare`: parse, call, print."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from registry.errors import BadInput
from swarm_worker.offline.console import open_console

search_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
compare_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

Config = Annotated[Path, typer.Option("--config", "-c", help="The run.yaml; docs/search.md says what may stand in it.")]
Out = Annotated[Path | None, typer.Option(help="Folder of the result. [default: .shoal/search/NAME-OF-CONFIG]")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@search_app.command()
def search(config: Config, out: Out = None, as_json: AsJson = False) -> None:
    """Search for a better adapter from a file: no server. Ctrl-C stops it; the same command goes on."""
    with _problems():
        from swarm_worker.offline import config as configs
        from swarm_worker.offline import report
        from swarm_worker.offline import search as offline
        from swarm_worker.offline.scene import Scene

        settings = configs.load(config)
        folder = _folder(out or settings.out, config, "search")
        with _resumable(folder, f"shoal search --config {config}" + (f" --out {out}" if out else "")), _bar() as bar:
            result = offline.run(Scene.of(settings), folder, bar.watch)
    if as_json:
        sys.stdout.write(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
        return
    console = open_console()
    console.print(Text(result["formula"], style="bold"))
    _draw(console, *report.rows(result))
    console.print(Text(result["confirm"]["evidence"]["reason"]))
    console.print(Text(f"{folder}/adapter, {folder}/report.md, {folder}/run.json"))


@compare_app.command()
def compare(
    config: Config,
    methods: Annotated[str, typer.Option(help="Names with commas between, or all.")] = "all",
    seeds: Annotated[str, typer.Option(help="Whole numbers with commas between.")] = "0",
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Presets, optimisers, baselines and controls at one budget, on the same test items. Resumes as `shoal search`."""
    with _problems():
        from swarm_worker.offline import compare as offline
        from swarm_worker.offline import config as configs
        from swarm_worker.offline.scene import Scene

        settings, names, numbers = configs.load(config), offline.chosen(methods), _seeds(seeds)
        folder = _folder(out, config, "compare")
        with _resumable(folder, f"the same command with --out {folder}"), _bar() as bar:
            result = offline.run(Scene.of(settings), folder, names, numbers, bar.watch)
    if as_json:
        sys.stdout.write(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
        return
    console = open_console()
    _draw(console, *offline.columns(result))
    for line in offline.refusals(result):
        console.print(Text(line))
    console.print(Text(f"{folder}/compare.md, {folder}/compare.json"))


def _seeds(given: str) -> list[int]:
    parts = [part.strip() for part in given.split(",") if part.strip()]
    if not parts or not all(part.isdigit() for part in parts) or len(set(parts)) < len(parts):
        raise ValueError(f"--seeds must be different whole numbers with commas between, such as 0,1,2, not {given!r}")
    return [int(part) for part in parts]


def _folder(out: Path | None, config: Path, command: str) -> Path:
    return out or Path(".shoal") / command / config.stem


class _Bar:
    """A line that moves: generation, best utility, time to go."""

    def __init__(self, drawn: Progress) -> None:
        self._drawn = drawn
        self._task = drawn.add_task("loading", total=1.0, told="")
        self.last = 0

    def watch(self, progress: object) -> None:
        from swarm_worker.offline.search import Progress as Searched

        if isinstance(progress, Searched):
            self.last = progress.generation or self.last
            best = "" if progress.best is None else f"generation {progress.generation}, best {progress.best:.4f}"
            self._drawn.update(self._task, description=progress.step, completed=progress.share, told=best)


@contextmanager
def _bar() -> Iterator[_Bar]:
    columns = [TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[told]}")]
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=open_console(stderr=True)) as drawn:
        yield _Bar(drawn)


@contextmanager
def _problems() -> Iterator[None]:
    """What a person can mend is one line that says how; the rest is a defect and keeps its traceback."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        raise BadInput(str(error)) from error


@contextmanager
def _resumable(folder: Path, command: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        kept = f"what was found so far is in {folder}. To go on: {command}"
        open_console(stderr=True).print(Text(f"Stopped; {kept}"))
        raise typer.Exit(130) from None


def _draw(console: Console, header: list[str], body: list[list[str]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(header):
        table.add_column(name, justify="right" if number else "left")
    for row in body:
        table.add_row(*(Text(cell) for cell in row))
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as captured:
        console.print(table)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))
