"""A registration that is refused, with all its reasons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tidegate.core.errors import InvalidInput
from tidegate.v1.values_pb2 import Reason

# A producer decides how much is wrong: what we say of it must fit an event, and a gRPC status (8 KiB of headers).
REASONS_MAX: Final = 50
REASON_CHARS_MAX: Final = 1000
MESSAGE_CHARS_MAX: Final = 1500


class Rejected(InvalidInput):
    """The producer must change something; nothing of the registration stays.

    ``reasons`` are the first REASONS_MAX, and one that says how many more there are.
    """

    def __init__(self, reasons: Sequence[Reason]) -> None:
        kept = _bounded(reasons)
        message = _cut("; ".join(reason.message for reason in kept), MESSAGE_CHARS_MAX)
        super().__init__(message, code=kept[0].code, field=kept[0].field)
        self.reasons = kept


def rejected(code: str, message: str, field: str, *, hint: str = "") -> Rejected:
    """Return a rejection with one reason."""
    return Rejected([Reason(code=code, message=f"{message} (hint: {hint})" if hint else message, field=field)])


def _bounded(reasons: Sequence[Reason]) -> tuple[Reason, ...]:
    kept = [
        Reason(
            code=reason.code,
            message=_cut(reason.message, REASON_CHARS_MAX),
            field=_cut(reason.field, REASON_CHARS_MAX),
        )
        for reason in reasons[:REASONS_MAX]
    ]
    if len(reasons) > REASONS_MAX:
        kept.append(Reason(code="MORE_REASONS", message=f"and {len(reasons) - REASONS_MAX} more"))
    return tuple(kept)


def _cut(text: str, chars_max: int) -> str:
    return text if len(text) <= chars_max else f"{text[: chars_max - 1]}…"
