"""One way around handlers of every kind, so that an interceptor says once what happens about a call."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias

import grpc

# Called with the request (None where the caller sends a stream) and gRPC's context; the call happens within.
Around: TypeAlias = Callable[[Any, Any], AbstractAsyncContextManager[None]]


def surrounded(handler: Any, around: Around) -> Any:
    """Return ``handler`` with each call within ``around``; it answers streams by yielding, or by ``context.write``."""
    codecs = {
        "request_deserializer": handler.request_deserializer,
        "response_serializer": handler.response_serializer,
    }
    if handler.unary_unary is not None:
        return grpc.unary_unary_rpc_method_handler(_answer(handler.unary_unary, around), **codecs)
    if handler.unary_stream is not None:
        return grpc.unary_stream_rpc_method_handler(_any(handler.unary_stream, around), **codecs)
    if handler.stream_unary is not None:
        return grpc.stream_unary_rpc_method_handler(_answer(handler.stream_unary, around, streamed=True), **codecs)
    return grpc.stream_stream_rpc_method_handler(_any(handler.stream_stream, around, streamed=True), **codecs)


def _any(behaviour: Any, around: Around, *, streamed: bool = False) -> Any:
    wrap = _answers if inspect.isasyncgenfunction(behaviour) else _answer
    return wrap(behaviour, around, streamed=streamed)


def _answer(behaviour: Any, around: Around, *, streamed: bool = False) -> Any:
    async def call(request: Any, context: Any) -> Any:
        async with around(None if streamed else request, context):
            return await behaviour(request, context)

    return call


def _answers(behaviour: Any, around: Around, *, streamed: bool = False) -> Any:
    async def call(request: Any, context: Any) -> AsyncIterator[Any]:
        async with around(None if streamed else request, context):
            async for response in behaviour(request, context):
                yield response

    return call
