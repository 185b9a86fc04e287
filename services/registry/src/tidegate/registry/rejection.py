"""A registration that is refused, with all its reasons."""

from __future__ import annotations

from collections.abc import Sequence

from tidegate.core.errors import InvalidInput
from tidegate.v1.values_pb2 import Reason


class Rejected(InvalidInput):
    """The producer must change something; nothing of the registration stays."""

    def __init__(self, reasons: Sequence[Reason]) -> None:
        first = reasons[0]
        message = "; ".join(reason.message for reason in reasons)
        super().__init__(message, code=first.code, field=first.field)
        self.reasons = tuple(reasons)


def rejected(code: str, message: str, field: str, *, hint: str = "") -> Rejected:
    """Return a rejection with one reason."""
    return Rejected([Reason(code=code, message=f"{message} (hint: {hint})" if hint else message, field=field)])
