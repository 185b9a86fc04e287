"""Tells the story while it happens; knows nothing of how it comes about."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from rich.console import Console

from tidegate.client.why import describe
from tidegate.contracts.codec import Event

PIPE_WIDTH: Final = 160
_QUIET_TYPES: Final = frozenset({"PolicyApplied", "MetricReport", "TrainingCompleted"})


class Narrator(Protocol):
    """What the story tells to."""

    def chapter(self, title: str) -> None:
        """Begin a new part."""

    def say(self, text: str, details: Sequence[str] = ()) -> None:
        """Tell that something was done, or is the case."""

    def event(self, event: Event) -> None:
        """Tell an event."""

    def shares(self, by_version: Mapping[str, int], *, failed: int) -> None:
        """Tell who answered how many requests since the last time; ``failed`` in all."""

    def verdict(self, name: str, *, holds: bool, observed: str) -> None:
        """Tell whether an expectation holds."""


class ConsoleNarrator:
    """Writes lines with the seconds since the start; readable without colour."""

    def __init__(self) -> None:
        width = None if sys.stdout.isatty() else PIPE_WIDTH
        self._console = Console(width=width, highlight=False, soft_wrap=True)
        self._begin = time.monotonic()

    def chapter(self, title: str) -> None:
        """See Narrator."""
        self._console.print(f"\n== {title}", style="bold", markup=False)

    def say(self, text: str, details: Sequence[str] = ()) -> None:
        """See Narrator."""
        self._line("demo", text, details)

    def event(self, event: Event) -> None:
        """See Narrator."""
        line = describe(event) if event.type not in _QUIET_TYPES else None
        if line is not None:
            self._line(line.source.removeprefix("tidegate/"), line.headline, line.details)

    def shares(self, by_version: Mapping[str, int], *, failed: int) -> None:
        """See Narrator."""
        total = sum(by_version.values())
        if total:
            parts = ", ".join(f"{version} {100 * count / total:.1f} %" for version, count in by_version.items())
            self._line("clients", f"{total} answers: {parts}; requests failed so far: {failed}", ())

    def verdict(self, name: str, *, holds: bool, observed: str) -> None:
        """See Narrator."""
        mark = "ok  " if holds else "FAIL"
        self._console.print(f"  {mark}  {name}: {observed}", style="green" if holds else "red", markup=False)

    def plain(self, text: str) -> None:
        """Write ``text`` as it is."""
        self._console.print(text, markup=False)

    def _line(self, who: str, text: str, details: Sequence[str]) -> None:
        seconds = time.monotonic() - self._begin
        self._console.print(f"{seconds:7.1f} s  {who:<10} {text}", markup=False)
        for detail in details:
            self._console.print(f"{'':22}{detail}", style="dim", markup=False)
