"""Calls to the services over gRPC: one channel an address, and their rich errors as ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

import grpc
from google.rpc import error_details_pb2

from tidegate.core.errors import (
    AlreadyExists,
    Conflict,
    FailedPrecondition,
    InvalidInput,
    NotFound,
    PermissionDenied,
    TidegateError,
    Unauthenticated,
    Unavailable,
)
from tidegate.core.grpc_errors import details_of, reason_of

DEADLINE_S: Final = 10.0
_KINDS: Final[dict[grpc.StatusCode, type[TidegateError]]] = {
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInput,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.ABORTED: Conflict,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: Unavailable,
}

R = TypeVar("R")


def call(method: Callable[..., R], request: Any, *, address: str, deadline_s: float = DEADLINE_S) -> R:
    """Return the response of a unary call.

    Raises:
        TidegateError: The kind that the status names; Unavailable if nobody answers at ``address``.

    """
    try:
        return method(request, timeout=deadline_s)
    except grpc.RpcError as error:
        raise from_rpc_error(error, address=address) from error


def stream(method: Callable[..., Any], request: Any, *, address: str, deadline_s: float | None) -> Iterator[Any]:
    """Yield the responses of a streaming call; the end of ``deadline_s`` ends it without an error.

    Raises:
        TidegateError: As :func:`call`.

    """
    responses = method(request, timeout=deadline_s)
    try:
        yield from responses
    except grpc.RpcError as error:
        if deadline_s is not None and _code(error) is grpc.StatusCode.DEADLINE_EXCEEDED:
            return
        raise from_rpc_error(error, address=address) from error
    finally:
        responses.cancel()


def from_rpc_error(error: Any, *, address: str) -> TidegateError:
    """Return ``error`` as one of ours: kind by status, code by ErrorInfo, field by BadRequest, hint by its text."""
    code = _code(error)
    details = details_of(error)
    message, _, hint = (error.details() or code.name).partition("\nhint: ")
    kind = _KINDS.get(code, TidegateError)
    reason = reason_of(error) or code.name
    if kind is Unavailable and not details:
        message = f"no answer from {address}: {message}"
        hint = hint or "see `tidegate status`; `tidegate up` starts the embedded stack"
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and not details:
        hint = hint or "the answer is larger than this client takes; ask for less at once (page_size, view)"
    fields = [
        violation.field
        for detail in details
        if isinstance(detail, error_details_pb2.BadRequest)
        for violation in detail.field_violations
    ]
    return kind(message, code=reason, field=fields[0] if fields else "", hint=hint)


def _code(error: Any) -> grpc.StatusCode:
    code: grpc.StatusCode = error.code()
    return code
