"""Commands for policies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tidegate.client.cli.connection import connect
from tidegate.client.cli.output import AsJson, as_dict, console, write_json
from tidegate.core.errors import InvalidInput
from tidegate.core.policy import policy_from_yaml, policy_to_yaml, resolve_policy, validate_policy

app = typer.Typer(no_args_is_help=True, help="What each service may do with a model's versions.")


@app.command("apply")
def apply(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The policy, YAML.", exists=True, dir_okay=False)],
    *,
    json: AsJson = False,
) -> None:
    """Check a policy and put it in force."""
    policy = policy_from_yaml(file.read_text())
    faults = validate_policy(resolve_policy(policy))
    if faults:
        raise InvalidInput(
            "; ".join(f"{fault.field} {fault.message}" for fault in faults), code=faults[0].code, field=faults[0].field
        )
    with connect(context) as client:
        applied = client.apply_policy(policy)
    if json:
        write_json(as_dict(applied))
    else:
        console().print(f"policy of {policy.model} applied, revision {applied.policy_revision}", markup=False)


@app.command("show")
def show(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Name of the model.", show_default=False)],
    *,
    json: AsJson = False,
) -> None:
    """Print the policy in force, all defaults filled in."""
    with connect(context) as client:
        found = client.get_policy(model)
    if json:
        write_json(as_dict(found))
        return
    origin = f"revision {found.policy_revision}" if found.policy_revision else "built in; none was applied"
    console().print(f"# {origin}\n{policy_to_yaml(found.policy)}", markup=False, end="")
