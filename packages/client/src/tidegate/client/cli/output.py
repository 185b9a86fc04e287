"""What commands write: plain tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Annotated, Any

import typer
from google.protobuf import json_format
from google.protobuf.message import Message
from rich.console import Console
from rich.table import Table

from tidegate.client.why import Line
from tidegate.contracts.codec import Event, format_time

AsJson = Annotated[bool, typer.Option("--json", help="Write JSON instead of text.")]
PIPE_WIDTH = 200


def console() -> Console:
    """Return where text goes; wide enough that a pipe gets whole lines."""
    return Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False, soft_wrap=True)


def as_dict(message: Message) -> dict[str, Any]:
    """Return the JSON form of ``message`` with the contract's field names."""
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def event_as_dict(event: Event) -> dict[str, Any]:
    """Return ``event`` with its attributes and body."""
    return {
        "id": event.id,
        "type": event.type,
        "source": event.source,
        "time": format_time(event.time),
        "subject": event.subject,
        "correlation_id": event.correlation_id,
        "causation_id": event.causation_id,
        "sequence": event.sequence,
        "data": as_dict(event.message),
    }


def write_json(document: Any, *, one_line: bool = False) -> None:
    """Write ``document`` to standard output."""
    sys.stdout.write(json.dumps(document, indent=None if one_line else 2, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def write_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a table without frames: readable without colour, and by `cut` and `awk`."""
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console().print(table)


def short_time(time: datetime) -> str:
    """Return the time of the day, in UTC, with milliseconds."""
    return time.strftime("%H:%M:%S.") + f"{time.microsecond // 1000:03d}"


def write_line(line: Line) -> None:
    """Write one step of a story."""
    out = console()
    source = line.source.removeprefix("tidegate/")
    out.print(f"{short_time(line.time)}  {source:<10} {line.headline}", markup=False)
    for detail in line.details:
        out.print(f"{'':26}{detail}", markup=False, style="dim")


def line_as_dict(line: Line) -> dict[str, Any]:
    """Return ``line`` for JSON."""
    return {
        "time": format_time(line.time),
        "source": line.source,
        "headline": line.headline,
        "details": list(line.details),
    }
