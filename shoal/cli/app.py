"""The root of the command: its groups, its commands, and the one place where an error becomes a line."""

from __future__ import annotations

import typer

from registry.errors import ShoalError
from shoal.cli import (
    adapters,
    artifacts,
    feedback,
    guard,
    history,
    keys,
    lineage,
    metrics,
    output,
    plugins,
    policy,
    rollout,
    runs,
    serve,
    snapshot,
    transfer,
    workers,
)

SERVE, ADAPTERS, RUNS, MORE = "Serve", "Adapters", "Feedback and runs", "More"
HELP = """Serve a LoRA expert that gets better from its users' feedback.

A first walk: **shoal up** in one terminal; then, in another, **shoal adapters** shows what answers,
**shoal feedback** tells how good an answer was, **shoal adapt NAME** searches for a better version and
promotes it, **shoal history NAME** says what happened, and **shoal rollback NAME** goes back.

Commands talk to http://127.0.0.1:3000, or to --url / SHOAL_URL; a key goes in --api-key / SHOAL_API_KEY.
"""


def build() -> typer.Typer:
    """The command with everything that is installed. Nothing that a plugin contributes is imported yet."""
    app = typer.Typer(
        name="shoal", help=HELP, no_args_is_help=True, rich_markup_mode="markdown", pretty_exceptions_enable=False
    )
    app.command("up", rich_help_panel=SERVE)(serve.up)
    app.command("status", rich_help_panel=SERVE)(serve.status)
    app.command("accept-registry", rich_help_panel=SERVE)(serve.accept_registry)
    app.add_typer(keys.app, name="keys", rich_help_panel=SERVE)
    app.command("version", rich_help_panel=SERVE)(serve.version)
    app.command("adapters", rich_help_panel=ADAPTERS)(adapters.adapters)
    app.command("versions", rich_help_panel=ADAPTERS)(adapters.versions)
    app.command("history", rich_help_panel=ADAPTERS)(history.history)
    app.command("metrics", rich_help_panel=ADAPTERS)(metrics.metrics)
    app.command("lineage", rich_help_panel=ADAPTERS)(lineage.lineage)
    app.command("promote", rich_help_panel=ADAPTERS)(rollout.promote)
    app.command("rollback", rich_help_panel=ADAPTERS)(rollout.rollback)
    app.command("canary", rich_help_panel=ADAPTERS)(rollout.canary)
    app.command("pin", rich_help_panel=ADAPTERS)(rollout.pin)
    app.command("unpin", rich_help_panel=ADAPTERS)(rollout.unpin)
    app.command("retire", rich_help_panel=ADAPTERS)(rollout.retire)
    app.add_typer(policy.app, name="policy", rich_help_panel=ADAPTERS)
    app.add_typer(guard.app, name="guard", rich_help_panel=ADAPTERS)
    app.command("import", rich_help_panel=ADAPTERS)(transfer.import_)
    app.command("export", rich_help_panel=ADAPTERS)(transfer.export)
    app.add_typer(artifacts.app, name="artifacts", rich_help_panel=ADAPTERS)
    app.command("gc", rich_help_panel=ADAPTERS)(artifacts.gc)
    app.add_typer(feedback.app, name="feedback", rich_help_panel=RUNS)
    app.command("adapt", rich_help_panel=RUNS)(runs.adapt)
    app.add_typer(runs.app, name="runs", rich_help_panel=RUNS)
    app.add_typer(snapshot.app, name="snapshot", rich_help_panel=RUNS)
    app.command("workers", rich_help_panel=RUNS)(workers.workers)
    taken = {command.name or "" for command in app.registered_commands} | {
        group.name or "" for group in app.registered_groups
    }
    plugins.contribute(app, taken=taken, panel=MORE)
    return app


def run(arguments: list[str]) -> int:
    """Run one command line; the exit code: 0, 1 for what failed, 2 for a line that could not be understood."""
    try:
        build()(args=arguments, prog_name="shoal")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except ShoalError as error:
        output.error(error)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
