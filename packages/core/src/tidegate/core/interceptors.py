"""What is measured of every gRPC call, and bound to every line that is logged within it."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

import grpc
from structlog.contextvars import bind_contextvars

from tidegate.core.metrics import GRPC_REQUESTS, GRPC_SECONDS, GRPC_STREAMS
from tidegate.core.tracing import HEADER, current_traceparent, serving

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
        codecs = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        label = method.removeprefix("/")
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(_unary(handler.unary_unary, label), **codecs)
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(_answering_stream(handler.unary_stream, label), **codecs)
        if handler.stream_unary is not None:
            return grpc.stream_unary_rpc_method_handler(_stream(handler.stream_unary, label), **codecs)
        answers = inspect.isasyncgenfunction(handler.stream_stream)
        wrap = _answering_stream if answers else _stream
        return grpc.stream_stream_rpc_method_handler(wrap(handler.stream_stream, label), **codecs)


def _unary(behaviour: Any, method: str) -> Any:
    async def call(request: Any, context: Any) -> Any:
        request_id = _request_id(request)
        _bind_log(method, request_id)
        with _traced(method, context, request_id), _counted(method, context), GRPC_SECONDS.labels(method).time():
            return await behaviour(request, context)

    return call


def _answering_stream(behaviour: Any, method: str) -> Any:
    async def call(request: Any, context: Any) -> AsyncIterator[Any]:
        _bind_log(method, _request_id(request))
        with _counted(method, context), GRPC_STREAMS.labels(method).track_inprogress():
            async for response in behaviour(request, context):
                yield response

    return call


def _stream(behaviour: Any, method: str) -> Any:
    """Wrap a behaviour that reads a stream; those that answer one write it by ``context.write``."""

    async def call(requests: Any, context: Any) -> Any:
        _bind_log(method)
        with _counted(method, context), GRPC_STREAMS.labels(method).track_inprogress():
            return await behaviour(requests, context)

    return call


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


class TraceMetadata(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[type-arg]
    """Sends the trace of the caller's span along with every call."""

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Add the ``traceparent``, if a span is open."""
        traceparent = current_traceparent()
        if not traceparent:
            return await continuation(client_call_details, request)
        metadata = grpc.aio.Metadata(*(client_call_details.metadata or ()), (HEADER, traceparent))
        return await continuation(client_call_details._replace(metadata=metadata), request)


def traced_channel(address: str) -> grpc.aio.Channel:
    """Return a channel to ``address`` whose calls carry the trace of their caller."""
    interceptors: list[Any] = [TraceMetadata()]
    return grpc.aio.insecure_channel(address, interceptors=interceptors)
