"""The stack's commands; they join the ``tidegate`` command by the entry-point group ``tidegate.commands``."""

from __future__ import annotations

import json as json_codec
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from tidegate.core.errors import TidegateError
from tidegate.stack import record
from tidegate.stack.child import log_tail
from tidegate.stack.parts import NAMES
from tidegate.stack.stack import Stack, Status

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_NOT_RUNNING: Final = 3
FOLLOW_POLL_S: Final = 0.25

Directory = Annotated[
    Path | None, typer.Option("--dir", envvar="TIDEGATE_DIR", help="Data directory of the stack (default: .tidegate).")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DEFAULT_DIRECTORY: Final = Path(".tidegate")

_out = Console(highlight=False, soft_wrap=True)
_err = Console(stderr=True, highlight=False, soft_wrap=True)


class _Shown:
    """Shows what happens on standard error, so that standard output stays the answer."""

    def __init__(self) -> None:
        columns = (TextColumn("  {task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
        self._progress = Progress(*columns, console=_err, transient=True, disable=not _err.is_terminal)
        self._task: TaskID | None = None

    def say(self, text: str) -> None:
        _err.print(text, markup=False)

    def ready(self, part: str) -> None:
        """Say nothing: the answer of `up` is that all are ready."""

    def progress(self, done: int, total: int) -> None:
        if self._task is None:
            self._progress.start()
            self._task = self._progress.add_task("jars", total=total)
        self._progress.update(self._task, completed=done)
        if done == total:
            self._progress.stop()


@contextmanager
def errors_told() -> Iterator[None]:
    """Tell an error of ours as a message, and end the command with its exit code."""
    try:
        yield
    except TidegateError as error:
        _err.print(f"error: {error}", markup=False)
        # An error that names a field is about what was typed.
        raise typer.Exit(EXIT_USAGE if error.field else EXIT_FAILED) from None


def chosen_directory(context: typer.Context, directory: Path | None) -> Path:
    """Return --dir, else the stack that ``tidegate --stack`` names, else the default."""
    named = directory or (context.obj or {}).get("stack") or DEFAULT_DIRECTORY
    return Path(named).parent if Path(named).name == "stack.json" else Path(named)


def up(
    context: typer.Context,
    directory: Directory = None,
    port_base: Annotated[
        int | None,
        typer.Option(
            "--port-base", help="First of ten ports; 0 = any free ones. Default: as last time, at first 7400."
        ),
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Let everybody in: ask for no tokens.")] = False,  # noqa: FBT002
    json: AsJson = False,  # noqa: FBT002  (a flag of the command line)
) -> None:
    """Start the embedded stack and return when all of it answers."""
    with errors_told():
        stack = Stack(chosen_directory(context, directory), reporter=_Shown())
        started = stack.up(port_base=port_base, insecure=insecure)
    if json:
        _out.print(json_codec.dumps(record.document(stack.layout, started)), markup=False)
        return
    environment = record.client_environment(stack.layout, started.ports)
    _out.print(f"gateway   {environment['TIDEGATE_GATEWAY_URL']}")
    _out.print(f"registry  {environment['TIDEGATE_REGISTRY_ADDRESS']}")
    _out.print(f"kafka     {environment['TIDEGATE_KAFKA_BOOTSTRAP']}")
    _out.print(f"s3        {environment['TIDEGATE_S3_ENDPOINT']}")
    _out.print(f"data      {stack.layout.root}", markup=False)


def down(
    context: typer.Context,
    directory: Directory = None,
    json: AsJson = False,  # noqa: FBT002  (a flag of the command line)
) -> None:
    """Stop the embedded stack and its model servers; its data stays."""
    with errors_told():
        ran = Stack(chosen_directory(context, directory), reporter=_Shown()).down()
    if json:
        _out.print(json_codec.dumps({"stopped": ran}))
    else:
        _out.print("the stack is down" if ran else "nothing was running")


def status(
    context: typer.Context,
    directory: Directory = None,
    json: AsJson = False,  # noqa: FBT002  (a flag of the command line)
) -> None:
    """Say how each part of the embedded stack is (exit code 1 if one is not ready, 3 if none runs)."""
    with errors_told():
        found = Stack(chosen_directory(context, directory)).status()
    if json:
        _out.print(json_codec.dumps(asdict(found)), markup=False)
    elif found.parts:
        _out.print(_table(found))
    else:
        _out.print(
            "the stack is not running" if found.state == "stopped" else "the supervisor is gone; run `tidegate up`"
        )
    match found.state:
        case "running":
            return
        case "stopped":
            raise typer.Exit(EXIT_NOT_RUNNING)
        case _:
            raise typer.Exit(EXIT_FAILED)


def _table(found: Status) -> Table:
    table = Table(box=None, header_style="bold")
    for name in ("part", "state", "port", "metrics", "process", "up", "memory"):
        table.add_column(name, justify="left" if name in {"part", "state"} else "right")
    for part in found.parts:
        state = "[green]ready[/]" if part.ready else f"[red]{part.state}, not ready[/]"
        memory = f"{part.memory_bytes / 2**20:.0f} MiB" if part.pid else ""
        table.add_row(
            part.name,
            state,
            str(part.port),
            str(part.metrics_port or ""),
            str(part.pid or ""),
            f"{part.up_s:.0f} s" if part.pid else "",
            memory,
        )
    return table


def logs(
    context: typer.Context,
    part: Annotated[str | None, typer.Argument(help=f"One of {', '.join(NAMES)}; default: all.")] = None,
    directory: Directory = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="Lines of each log.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until interrupted.")] = False,  # noqa: FBT002
) -> None:
    """Print the ends of the logs of the embedded stack."""
    if part is not None and part not in NAMES:
        raise typer.BadParameter(f"there is no part {part!r}, expected one of {', '.join(NAMES)}")
    layout = Stack(chosen_directory(context, directory)).layout
    chosen = {name: layout.log(name) for name in ([part] if part else NAMES)}
    if not any(path.exists() for path in chosen.values()):
        _err.print(f"there are no logs in {layout.logs}", markup=False)
        raise typer.Exit(EXIT_NOT_RUNNING)
    for name, path in chosen.items():
        for line in log_tail(path, lines).splitlines():
            _print_line(name, line, alone=part is not None)
    if follow:
        _follow(chosen)


def _print_line(name: str, line: str, *, alone: bool) -> None:
    _out.print(line if alone else f"{name:17} {line}", markup=False)


def _follow(paths: dict[str, Path]) -> None:
    offsets = {name: path.stat().st_size if path.exists() else 0 for name, path in paths.items()}
    while True:
        for name, path in paths.items():
            size = path.stat().st_size if path.exists() else 0
            # A log that was turned over begins anew.
            start = offsets[name] if size >= offsets[name] else 0
            if size > start:
                with path.open("rb") as stream:
                    stream.seek(start)
                    for line in stream.read(size - start).decode(errors="replace").splitlines():
                        _print_line(name, line, alone=len(paths) == 1)
            offsets[name] = size
        time.sleep(FOLLOW_POLL_S)
