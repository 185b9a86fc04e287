"""Backup, restore and audit on the embedded stack: the registry's own commands, run as the registry itself is run."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer

from tidegate.core.errors import FailedPrecondition, Unavailable
from tidegate.stack import record
from tidegate.stack.cli import AsJson, Directory, chosen_directory, errors_told
from tidegate.stack.environment import clean_environment
from tidegate.stack.object_store import ensure_credentials
from tidegate.stack.parts import furnish, parts
from tidegate.stack.stack import Stack
from tidegate.stack.startup import POLL_S, STOPPED_S, wait_until_ready
from tidegate.stack.supervisor import Supervisor

REGISTRY: Final = "registry"
# The script of a part hands arguments on since this line ends it.
TAKES_ARGUMENTS: Final = '"$@"'
# States that the supervisor does not end by itself.
STILL: Final = frozenset({"STOPPED", "FATAL"})
Folder = Annotated[Path, typer.Argument(help="Folder of the backups; they share what they have in common.")]


def backup(
    context: typer.Context,
    folder: Folder,
    *,
    directory: Directory = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Go on if the object store has lost objects.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Copy the registry's database and the artifacts that it names, while everything goes on."""
    flags = {"--allow-missing": allow_missing, "--json": json}
    with errors_told():
        stack = Stack(chosen_directory(context, directory))
        code = run_registry_command(stack, ["backup", str(folder.resolve()), *_given(flags)])
    raise typer.Exit(code)


def restore(
    context: typer.Context,
    folder: Folder,
    *,
    directory: Directory = None,
    name: Annotated[str, typer.Option("--backup", help="Name of the backup (default: the newest).")] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a registry that is not empty.")] = False,
    discard_unpublished: Annotated[
        bool,
        typer.Option(
            "--discard-unpublished", help="With --overwrite: lose acknowledged events that are not on the bus yet."
        ),
    ] = False,
    announce: Annotated[
        bool, typer.Option("--announce", help="On a new event bus: have the stable versions delivered again.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Bring a backup back; the registry pauses, traffic and rollouts go on."""
    flags = {
        "--overwrite": overwrite,
        "--discard-unpublished": discard_unpublished,
        "--announce": announce,
        "--json": json,
    }
    words = ["restore", str(folder.resolve()), *(["--backup", name] if name else []), *_given(flags)]
    with errors_told():
        stack = Stack(chosen_directory(context, directory))
        with registry_paused(stack):
            code = run_registry_command(stack, words)
    raise typer.Exit(code)


def audit(
    context: typer.Context,
    *,
    directory: Directory = None,
    json: AsJson = False,
) -> None:
    """Say which artifacts that the registry names are missing in the object store (exit code 1 if any)."""
    with errors_told():
        stack = Stack(chosen_directory(context, directory))
        code = run_registry_command(stack, ["audit", *_given({"--json": json})])
    raise typer.Exit(code)


def run_registry_command(stack: Stack, words: Sequence[str]) -> int:
    """Run a command of the registry with its own environment and return its exit code.

    Raises:
        FailedPrecondition: The stack was never started, or by a release that has no such commands.

    """
    script = stack.layout.run / f"{REGISTRY}.sh"
    if not script.exists() or TAKES_ARGUMENTS not in script.read_text():
        raise FailedPrecondition(
            f"the stack in {stack.layout.root} was not started by this release",
            code="STACK_NOT_STARTED",
            hint="run `tidegate up`, which also upgrades a stack that runs",
        )
    return subprocess.run(  # noqa: S603  (our own command)
        ["/bin/sh", str(script), *words], env=clean_environment(), check=False
    ).returncode


@contextmanager
def registry_paused(stack: Stack) -> Iterator[None]:
    """Have the registry stand still for the length of a ``with`` block; the stores must run, and are furnished.

    Raises:
        FailedPrecondition: The stack does not run.

    """
    supervisor, layout = stack.supervisor, stack.layout
    with stack.locked():
        plan = record.load(layout)
        if plan is None or not supervisor.is_alive():
            raise FailedPrecondition(
                f"no stack runs in {layout.root}", code="STACK_NOT_RUNNING", hint="run `tidegate up` first"
            )
        credentials = ensure_credentials(layout.credentials)
        try:
            stand_still(supervisor)
            furnish(plan.ports, credentials)
            yield
        finally:
            supervisor.start_part(REGISTRY)
        wait_until_ready(supervisor, layout, REGISTRY, parts(plan.ports, credentials)[REGISTRY].is_ready)


def stand_still(supervisor: Supervisor, *, deadline_s: float = STOPPED_S) -> None:
    """Return when the registry does not run, and will not by itself.

    Raises:
        Unavailable: It does still when ``deadline_s`` is over.

    """
    deadline = time.monotonic() + deadline_s
    while (state := supervisor.states()[REGISTRY].state) not in STILL:
        if time.monotonic() > deadline:
            raise Unavailable(f"{REGISTRY} does not stop (it is {state.lower()})", code="PART_NOT_STOPPED")
        # One that just ended by itself is started anew by the supervisor: a stop that came between did nothing.
        supervisor.stop_part(REGISTRY)
        time.sleep(POLL_S)


def _given(flags: dict[str, bool]) -> list[str]:
    return [flag for flag, given in flags.items() if given]
