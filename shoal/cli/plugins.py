"""Commands that other packages contribute, by the entry-point group ``shoal.commands``.

The entry point's name is the command's; what it loads is a ``typer.Typer``, or a function ``register(app)`` that adds
commands to one. It is loaded when its command is used and not before: `shoal adapters` must not import torch for a
command that it does not run. One that cannot be loaded is one line of error, and only for who uses it.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer

from shoal.errors import LocalProblem

GROUP = "shoal.commands"
# Help of a command that is not loaded; of others the package is told.
KNOWN = {
    "demo": "The whole story on the starter pack, in minutes: traffic, feedback, a run, a promotion, a rollback.",
    "search": "A search from a file, without servers.",
    "compare": "Optimisers and baselines side by side, at one budget.",
    "analyse": "The analyses of Model Swarms' paper on your experts, each beside its null.",
    "rebuild": "Make a version again from its lineage, and say whether the bytes are the same.",
    "backup": "Everything that Redis and the place for weights keep, in one file. Needs no service.",
    "restore": "Records and weights as a backup has them. Needs no service.",
}
# Everything after the command's name is the contributed command's own to parse, --help included.
_PASS_ON: dict[str, Any] = {
    "add_help_option": False,
    "context_settings": {"ignore_unknown_options": True, "allow_extra_args": True, "allow_interspersed_args": False},
}


def contribute(app: typer.Typer, *, taken: set[str], panel: str) -> None:
    """Add a command for each entry point; a name that is taken stays what it is."""
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        if point.name not in taken:
            taken.add(point.name)
            package = point.dist.name if point.dist else point.value.partition(":")[0]
            told = KNOWN.get(point.name, f"Contributed by {package}.")
            app.command(point.name, help=told, rich_help_panel=panel, **_PASS_ON)(_lazy(point))


def _lazy(point: EntryPoint) -> Any:
    def invoke(context: typer.Context) -> None:
        loaded(point)(args=context.args, prog_name=f"shoal {point.name}")

    return invoke


def loaded(point: EntryPoint) -> typer.Typer:
    """What the entry point names, as an app. ``LocalProblem`` for whatever goes wrong on the way."""
    try:
        found = point.load()
        if isinstance(found, typer.Typer):
            return found
        app = typer.Typer()
        found(app)
    except Exception as error:
        why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        hint = " Install what it needs: pip install 'shoal[cpu]'." if isinstance(error, ImportError) else ""
        raise LocalProblem(f"`shoal {point.name}` ({point.value}) cannot be loaded: {why}.{hint}") from error
    return app
