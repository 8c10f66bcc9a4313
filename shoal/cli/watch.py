"""A run while it moves: a progress bar on a terminal, one line a change elsewhere; then what came of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from registry.records import GOING
from shoal.cli import output
from shoal.client import Client

GOOD_ENDS = ("done", "stopped")  # a search that finds nothing better has done its work


def watch(client: Client, run_id: str) -> int:
    """Follow a run to its end; the exit code that tells how it ended. Ctrl-C stops the watching, not the run."""
    out = output.console()
    try:
        run = _drawn(client, run_id) if out.is_terminal else _told(client, run_id)
    except KeyboardInterrupt:
        output.say(f"The run goes on. Come back: shoal runs watch {run_id}; end it: shoal runs cancel {run_id}")
        return 130
    _ended(run)
    return 0 if run["status"] in GOOD_ENDS else 1


def _drawn(client: Client, run_id: str) -> dict[str, Any]:
    run: dict[str, Any] = {}
    with _RunProgress(console=output.console()) as progress:
        bar = progress.add_task("", total=None, run={})
        for run in client.run_events(run_id):
            of = run["max_generations"] or None
            progress.formula = run.get("formula") or ""
            progress.update(bar, description=_where(run), completed=run["generation"], total=of, run=run)
    return run


def _told(client: Client, run_id: str) -> dict[str, Any]:
    run: dict[str, Any] = {}
    last = ""
    for run in client.run_events(run_id):
        line = f"{_where(run)} {_generation(run)} {_utility(run)} {run.get('formula') or ''}"
        if run["status"] in GOING and line != last:
            output.say(" ".join(line.split()))
        last = line
    return run


class _RunProgress(Progress):
    """The bar, and the formula on a line of its own: it is as long as there are experts."""

    formula = ""

    @classmethod
    def get_default_columns(cls) -> tuple[ProgressColumn, ...]:
        return (TextColumn("{task.description}"), BarColumn(), _Generation(), _Utility(), TimeRemainingColumn())

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        if self.formula:
            yield Text(f"  {self.formula}", style="dim")


class _Generation(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(_generation(task.fields["run"]), style="cyan")


class _Utility(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(_utility(task.fields["run"]))


def _where(run: dict[str, Any]) -> str:
    """Its status; of a find on trial, with the share that it has now."""
    return f"{run['status']}: {run['outcome']};" if run["status"] == "canary" else str(run["status"])


def _generation(run: dict[str, Any]) -> str:
    return f"{run['generation']}/{run['max_generations'] or '?'}" if run.get("max_generations") else ""


def _utility(run: dict[str, Any]) -> str:
    if run.get("best_utility") is None:
        return ""
    expert = ""
    if run.get("best_expert_utility") is not None:
        expert = f" (best expert {run['best_expert_utility']:.4f}, {run.get('best_expert') or '?'})"
    return f"utility {run['best_utility']:.4f}{expert}"


def _ended(run: dict[str, Any]) -> None:
    good = run["status"] in GOOD_ENDS
    output.say(
        (f"{run['status']}: ", "bold green" if good else "bold red"), run.get("outcome") or "no reason was given"
    )
    if run.get("formula"):
        output.say(f"  {run['formula']}")
    if run.get("decision"):
        output.figures({key: value for key, value in run["decision"].items() if key != "reason"})
    if run.get("version") and not run.get("promoted"):
        output.say(f"To let it answer: shoal promote {run['spec']['adapter']} {run['version']}")
