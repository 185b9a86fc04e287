"""The commands, put together; packages add theirs by the entry-point group ``tidegate.commands``."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Final

import typer

from tidegate.client.cli import events, policy, publish, retirement, rollouts, starter, versions, why
from tidegate.client.cli.errors import TidegateGroup

COMMAND_GROUP: Final = "tidegate.commands"

app = typer.Typer(
    name="tidegate",
    cls=TidegateGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="From 'training finished' to serving all live traffic, or safely back.",
)


@app.callback()
def global_options(
    context: typer.Context,
    stack: Annotated[
        Path | None, typer.Option(help="Folder of the embedded stack, or its stack.json (default: found upwards).")
    ] = None,
) -> None:
    """From 'training finished' to serving all live traffic, or safely back."""
    context.obj = {"stack": stack}


app.command("init")(starter.init)
app.command("publish")(publish.publish)
app.add_typer(retirement.models_app, name="models")
app.add_typer(retirement.versions_app, name="versions")
app.command("lineage")(versions.lineage)
app.command("alias")(versions.alias)
app.add_typer(policy.app, name="policy")
app.add_typer(rollouts.app, name="rollouts")
app.command("rollback")(rollouts.rollback)
app.add_typer(events.app, name="events")
app.command("why")(why.why)


def add_commands_of_packages() -> None:
    """Add what other packages bring: an entry point is a Typer app (a group) or a function (a command)."""
    for point in sorted(entry_points(group=COMMAND_GROUP), key=lambda point: point.name):
        command = point.load()
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=point.name)
        else:
            app.command(point.name)(command)


add_commands_of_packages()


def main() -> None:
    """Run the command line."""
    app()
