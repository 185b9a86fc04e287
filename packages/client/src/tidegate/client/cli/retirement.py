"""Commands that take models and versions out of service, beside those that list them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tidegate.client.cli import versions
from tidegate.client.cli.connection import connect
from tidegate.client.cli.errors import TidegateGroup
from tidegate.client.cli.names import version_named
from tidegate.client.cli.output import AsJson, as_dict, console, write_json
from tidegate.client.cli.rollouts import Reason, write_decision

Undo = Annotated[bool, typer.Option("--undo", help="Bring it back.")]


class ListsByDefault(TidegateGroup):
    """A group whose command is ``list`` where none is named: ``tidegate versions churn``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Name the command that is meant."""
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return list(super().parse_args(ctx, args))


models_app = typer.Typer(cls=ListsByDefault, help="List the models, or take one out of service.")
versions_app = typer.Typer(cls=ListsByDefault, help="List the versions of a model, or take one out of service.")
models_app.command("list")(versions.models)
versions_app.command("list")(versions.versions)


@models_app.command("retire")
def retire_model(
    context: typer.Context, model: versions.Model, *, undo: Undo = False, reason: Reason = "", json: AsJson = False
) -> None:
    """Take a model out of service: its paths answer 404, its servers stop, its artifacts stay."""
    with connect(context) as client:
        _write(client.retire_model(model, undo=undo, reason=reason), json=json)


@versions_app.command("retire")
def retire_version(
    context: typer.Context,
    reference: versions.Reference,
    *,
    undo: Undo = False,
    reason: Reason = "",
    json: AsJson = False,
) -> None:
    """Take a version out of service: no rollout and no rollback reaches it, its server stops, its artifact stays."""
    with connect(context) as client:
        model, version = version_named(client, reference)
        _write(client.retire_version(model, version, undo=undo, reason=reason), json=json)


def _write(response: Any, *, json: bool) -> None:
    if json:
        write_json(as_dict(response))
        return
    console().print(f"decided: {response.change.reason}", markup=False)
    if response.HasField("rollout"):
        write_decision(response.rollout)
