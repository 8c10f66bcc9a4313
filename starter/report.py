"""What the demo shows: a run while it moves, and the figures at the end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

LABELS = {
    "base": "base model, no adapter",
    "best_expert": "best expert (chosen on search items)",
    "champion_before": "champion before the run",
    "uniform_soup": "uniform soup of all experts",
    "random_in_hull": "random search in the hull, same budget",
    "adapted": "adapted version",
}


def watch(console: Console, events: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Draw a run until it ends; answers its last state."""
    columns = (
        TextColumn("   {task.fields[status]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("generations"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[told]}"),
    )
    run: dict[str, Any] = {}
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=None, status="queued", told="")
        for run in events:
            told = ""
            if run["best_utility"] is not None:
                told = f"utility {run['best_utility']:.4f}"
                if run["best_expert_utility"] is not None:
                    told += f" (best expert {run['best_expert']} {run['best_expert_utility']:.4f})"
            progress.update(
                task, total=run["max_generations"] or None, completed=run["generation"], status=run["status"], told=told
            )
    return run


def show(console: Console, figures: dict[str, Any]) -> None:
    """The table at the end of the story."""
    test, requests = figures["test"], figures["requests"]
    error = (0.25 / test["n"]) ** 0.5
    table = Table(title=f"Right answers on {test['n']} held-out items (one standard error is at most {error:.1%})")
    table.add_column("who answers")
    table.add_column("right", justify="right")
    for name, label in LABELS.items():
        style = "bold green" if name == "adapted" else ""
        table.add_row(label, f"{test[name]:.1%}", style=style)
    console.print()
    console.print(table)
    console.print(
        f"adapted minus champion: {100 * (test['adapted'] - test['champion_before']):+.1f} points, 95% interval "
        f"{100 * test['ci_low']:+.1f} to {100 * test['ci_high']:+.1f}; lower bound against the best expert "
        f"{100 * test['ci_low_vs_best_expert']:+.1f}",
        highlight=False,
    )
    console.print(
        f"requests: {requests['ok']} answered, {requests['failed']} failed, {requests['mixed']} mixed of "
        f"{requests['checked']} checked; first answer after the swap {figures['swap_ms']:.0f} ms, after the rollback "
        f"{figures['rollback_ms']:.0f} ms; search {figures['search']['item_generations']} item-generations in "
        f"{figures['search']['seconds']:.0f} s; everything {figures['wall_s']:.0f} s",
        highlight=False,
    )
    console.print(f"the adapted version is {figures['formula']}", highlight=False)
