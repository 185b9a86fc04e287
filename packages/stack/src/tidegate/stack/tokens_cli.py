"""``tidegate tokens``: who may call the services, as it stands in a file that they read again whenever it changes."""

from __future__ import annotations

import json as json_codec
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from tidegate.contracts.access import Role
from tidegate.core.clock import utc_now
from tidegate.stack.cli import AsJson, Directory, chosen_directory, errors_told
from tidegate.stack.layout import Layout
from tidegate.stack.tokens import callers_in, create_token, revoke_token

app = typer.Typer(no_args_is_help=True, help="Who may call the services: create, list and revoke tokens.")

File = Annotated[
    Path | None, typer.Option("--file", help="Another file of tokens than the embedded stack's (docs/security.md).")
]
Name = Annotated[str, typer.Argument(help="Who it is for; this name stands in events and logs.")]

_out = Console(highlight=False, soft_wrap=True)
_err = Console(stderr=True, highlight=False, soft_wrap=True)


def _file(context: typer.Context, directory: Path | None, file: Path | None) -> Path:
    return file or Layout.of(chosen_directory(context, directory)).tokens_file


@app.command()
def create(
    context: typer.Context,
    name: Name,
    *,
    role: Annotated[Role, typer.Option("--role", help="What it may do.")],
    models: Annotated[str, typer.Option("--models", help="Only models whose names begin with this.")] = "",
    days: Annotated[float | None, typer.Option("--days", min=0, help="How long it lasts; default: for ever.")] = None,
    directory: Directory = None,
    file: File = None,
    json: AsJson = False,
) -> None:
    """Make a token and print it: it stands nowhere else."""
    expires = utc_now() + timedelta(days=days) if days is not None else None
    with errors_told():
        token = create_token(_file(context, directory, file), name=name, role=role, models=models, expires=expires)
    if json:
        _out.print(json_codec.dumps({"name": name, "role": role.value, "token": token}), markup=False)
        return
    _out.print(token, markup=False)
    _err.print("keep it: only its digest is stored. Callers set it as TIDEGATE_TOKEN.", markup=False)


@app.command("list")
def list_(
    context: typer.Context,
    directory: Directory = None,
    file: File = None,
    json: AsJson = False,  # noqa: FBT002  (a flag of the command line)
) -> None:
    """Say who may call, and what."""
    with errors_told():
        callers = callers_in(_file(context, directory, file))
    if json:
        shown = [caller.model_dump(mode="json", exclude={"sha256"}) for caller in callers]
        _out.print(json_codec.dumps(shown), markup=False)
        return
    table = Table(box=None, header_style="bold")
    for column in ("name", "role", "models", "expires", "known by"):
        table.add_column(column)
    now = utc_now()
    for caller in callers:
        until = "never" if caller.expires is None else caller.expires.strftime("%Y-%m-%d %H:%M UTC")
        expires = f"{until} (over)" if caller.has_expired(now) else until
        known_by = f"certificate {caller.certificate}" if caller.certificate else "token"
        table.add_row(caller.name, caller.role.value, f"{caller.models}*", expires, known_by)
    _out.print(table)


@app.command()
def revoke(context: typer.Context, name: Name, directory: Directory = None, file: File = None) -> None:
    """Let a caller in no more: from the next call on."""
    with errors_told():
        revoke_token(_file(context, directory, file), name)
    _out.print(f"{name} is revoked", markup=False)
