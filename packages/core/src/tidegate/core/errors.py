"""The kinds of error that a service's shell knows: invalid, unavailable, conflict, refused; anything else ends it."""

from __future__ import annotations


class TidegateError(Exception):
    """Base of the errors below; ``code`` is a stable UPPER_SNAKE reason, ``hint`` says what to do."""

    def __init__(self, message: str, *, code: str = "INTERNAL", field: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.field = field
        self.hint = hint

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text}\nhint: {self.hint}" if self.hint else text


class InvalidInput(TidegateError):  # noqa: N818
    """The input can never be handled: dead-letter it, or INVALID_ARGUMENT; the stream goes on."""


class NotFound(InvalidInput):
    """What was asked for does not exist: NOT_FOUND."""


class FailedPrecondition(InvalidInput):
    """The state does not allow it: FAILED_PRECONDITION."""


class Unavailable(TidegateError):  # noqa: N818
    """Something outside is away: back off with a bound, retry, do not commit."""


class Refused(TidegateError):  # noqa: N818
    """We are not who we say we are, or may not do it: no retry helps, the process ends and says so."""


class Unauthenticated(TidegateError):  # noqa: N818
    """A server does not know who calls: UNAUTHENTICATED."""


class PermissionDenied(TidegateError):  # noqa: N818
    """A server knows who calls, who may not do this: PERMISSION_DENIED."""


class Conflict(TidegateError):  # noqa: N818
    """Somebody else was faster: reload and decide again, or ABORTED."""


class AlreadyExists(Conflict):
    """The same request id came with another body: ALREADY_EXISTS."""
