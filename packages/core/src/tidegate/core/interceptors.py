"""What is measured of every call that a server answers, and bound to every line that is logged within it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, TypeAlias

import grpc
from structlog.contextvars import bind_contextvars

from tidegate.core.handlers import surrounded
from tidegate.core.metrics import GRPC_REQUESTS, GRPC_SECONDS, GRPC_STREAMS
from tidegate.core.tracing import HEADER, serving

# Health is asked every second, and says nothing of what users feel.
UNMEASURED_PREFIXES: Final = ("/grpc.health.", "/grpc.reflection.")
TEXT_CHARS_MAX: Final = 200
# The context tells the number or the enum, whichever it was given.
_NAMES: Final = {key: code.name for code in grpc.StatusCode for key in (code, code.value[0])}

_Continuation: TypeAlias = Callable[[grpc.HandlerCallDetails], Awaitable[Any]]


class TelemetryInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Counts calls by method and code, times unary ones, and binds ``method`` and ``request_id`` to the log."""

    async def intercept_service(
        self, continuation: _Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """Wrap handlers of every kind."""
        handler = await continuation(handler_call_details)
        method = str(handler_call_details.method)
        if handler is None or method.startswith(UNMEASURED_PREFIXES):
            return handler
        label = method.removeprefix("/")
        is_unary = handler.unary_unary is not None

        @asynccontextmanager
        async def measured(request: Any, context: Any) -> AsyncIterator[None]:
            request_id = _request_id(request)
            _bind_log(label, request_id)
            shown = _timed(label, context, request_id) if is_unary else GRPC_STREAMS.labels(label).track_inprogress()
            with _counted(label, context), shown:
                yield

        return surrounded(handler, measured)


@contextmanager
def _timed(method: str, context: Any, request_id: str) -> Iterator[None]:
    with _traced(method, context, request_id), GRPC_SECONDS.labels(method).time():
        yield


@contextmanager
def _counted(method: str, context: Any) -> Iterator[None]:
    code = "OK"
    try:
        yield
    except BaseException as error:
        code = _code(error, context)
        raise
    finally:
        GRPC_REQUESTS.labels(method, code).inc()


def _code(error: BaseException, context: Any) -> str:
    """Return the name of the code that the caller got with ``error``."""
    if isinstance(error, grpc.aio.AbortError):
        return _NAMES.get(context.code(), "UNKNOWN")
    return "UNKNOWN" if isinstance(error, Exception) else "CANCELLED"


@contextmanager
def _traced(method: str, context: Any, request_id: str) -> Iterator[None]:
    """Answer within a span if the caller has one, or writes: what is only asked again and again begins no trace."""
    metadata = dict(context.invocation_metadata() or ())
    traceparent = str(metadata.get(HEADER, ""))
    if not traceparent and not request_id:
        yield
        return
    with serving(method, traceparent) as span:
        try:
            yield
        finally:
            # None while nobody has set one: OK, or what an exception becomes.
            code = context.code() or 0
            span.set_attribute("rpc.grpc.status_code", code.value[0] if isinstance(code, grpc.StatusCode) else code)


def _request_id(request: Any) -> str:
    """Return the id that the caller chose; a registration carries it in the training."""
    held = getattr(request, "training", request)
    return str(getattr(held, "request_id", ""))[:TEXT_CHARS_MAX]


def _bind_log(method: str, request_id: str = "") -> None:
    """Bind what tells calls apart; gRPC runs each call in a task of its own, so nothing needs to be unbound."""
    fields = {"method": method.rpartition("/")[2]} | ({"request_id": request_id} if request_id else {})
    bind_contextvars(**fields)
