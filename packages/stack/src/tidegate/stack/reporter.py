"""What is told while something takes long."""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """Takes what happens; the command line shows it, tests are silent."""

    def say(self, text: str) -> None:
        """Take one line about what begins now."""

    def progress(self, done: int, total: int) -> None:
        """Take how far a download has come."""

    def ready(self, part: str) -> None:
        """Take the name of a part that answers now."""


class Silent:
    """Tells nobody."""

    def say(self, text: str) -> None:
        """Drop the line."""

    def progress(self, done: int, total: int) -> None:
        """Drop the number."""

    def ready(self, part: str) -> None:
        """Drop the name."""
