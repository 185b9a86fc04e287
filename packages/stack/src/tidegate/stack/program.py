"""What a part of the stack is made of: a command, its environment, and what it writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """A part that runs as a process of its own, in the foreground.

    ``environment`` is all that the process gets beyond the few harmless variables of :mod:`tidegate.stack.environment`.
    """

    name: str
    command: tuple[str, ...]
    directory: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    start_s: float = 60.0
    stop_s: float = 10.0
    kill_group: bool = True
