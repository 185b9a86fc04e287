"""Errors on the command line: ``error:`` and ``hint:`` on standard error, and exit codes that stay."""

from __future__ import annotations

import sys
from typing import Any, Final

import typer
from typer.core import TyperGroup

from tidegate.core.errors import (
    FailedPrecondition,
    InvalidInput,
    NotFound,
    PermissionDenied,
    TidegateError,
    Unauthenticated,
    Unavailable,
)

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNAVAILABLE: Final = 3
EXIT_NOT_FOUND: Final = 4
EXIT_NOT_ALLOWED: Final = 5
EXIT_UNDECIDED: Final = 6
UNAVAILABLE_HINT: Final = "see `tidegate status`; `tidegate up` starts the embedded stack"

# First match wins: subclasses stand before their bases.
_EXIT_CODES: Final = (
    (NotFound, EXIT_NOT_FOUND),
    (FailedPrecondition, EXIT_FAILED),
    (InvalidInput, EXIT_USAGE),
    (Unavailable, EXIT_UNAVAILABLE),
    (Unauthenticated, EXIT_NOT_ALLOWED),
    (PermissionDenied, EXIT_NOT_ALLOWED),
)


def exit_code(error: TidegateError) -> int:
    """Return the exit code that ``error`` ends the command with."""
    if error.code in {"COMMAND_UNDECIDED", "COMMAND_DECIDED_BEFORE"}:
        # It may have its effect, or has had it: no failure, and no success.
        return EXIT_UNDECIDED
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), EXIT_FAILED)


def show_error(error: TidegateError) -> None:
    """Write what failed and what to do to standard error."""
    message = str(error).partition("\nhint: ")[0]
    where = f" [{error.field}]" if error.field else ""
    sys.stderr.write(f"error: {message}{where}\n")
    hint = error.hint or (UNAVAILABLE_HINT if isinstance(error, Unavailable) else "")
    if hint:
        sys.stderr.write(f"hint: {hint}\n")


class TidegateGroup(TyperGroup):
    """A group of commands whose errors of ours end as messages, never as traces."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except TidegateError as error:
            show_error(error)
            raise typer.Exit(exit_code(error)) from None
