"""Channels to servers of ours: with our token, our certificate, and the trace of the caller's span."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeAlias

import grpc

from tidegate.core.errors import InvalidInput
from tidegate.core.settings import CallerSettings
from tidegate.core.tls import channel_tls_of, read_file
from tidegate.core.tracing import HEADER as TRACE_HEADER
from tidegate.core.tracing import current_traceparent

AUTHORIZATION: Final = "authorization"
# Servers of ours are spoken to directly; a message may be as large as they take.
OPTIONS: Final = (("grpc.enable_http_proxy", 0),)

Pairs: TypeAlias = tuple[tuple[str, str], ...]


def open_channel(address: str, settings: CallerSettings) -> grpc.Channel:
    """Return a blocking channel to ``address``.

    Raises:
        InvalidInput: The token or a certificate can't be read (code FILE_UNREADABLE).

    """
    secure = channel_tls_of(settings)
    channel = (
        grpc.secure_channel(address, secure, options=OPTIONS)
        if secure
        else grpc.insecure_channel(address, options=OPTIONS)
    )
    return grpc.intercept_channel(channel, _Blocking(metadata_of(settings)))


def open_aio_channel(address: str, settings: CallerSettings) -> grpc.aio.Channel:
    """Return a channel to ``address`` for the running event loop; see :func:`open_channel`."""
    secure = channel_tls_of(settings)
    own = metadata_of(settings)
    interceptors: list[Any] = [_AioUnary(own), _AioStream(own)]
    if secure:
        return grpc.aio.secure_channel(address, secure, options=OPTIONS, interceptors=interceptors)
    return grpc.aio.insecure_channel(address, options=OPTIONS, interceptors=interceptors)


def metadata_of(settings: CallerSettings) -> Callable[[], Pairs]:
    """Return what says who calls, and within what, for each call anew: a token may be changed in its file."""
    last = token_of(settings)

    def pairs() -> Pairs:
        nonlocal last
        # While the file is being replaced, the token that was good until now is the best guess.
        with suppress(InvalidInput):
            last = token_of(settings)
        traceparent = current_traceparent()
        return ((AUTHORIZATION, f"Bearer {last}"),) * bool(last) + ((TRACE_HEADER, traceparent),) * bool(traceparent)

    return pairs


def token_of(settings: CallerSettings) -> str:
    """Return our token; empty if there is none.

    Raises:
        InvalidInput: Its file can't be read (code FILE_UNREADABLE).

    """
    given = settings.token.get_secret_value()
    if given or settings.token_file is None:
        return given
    return read_file(settings.token_file, "our token").decode().strip()


class _Details(grpc.ClientCallDetails):
    """The details of a call with more metadata."""

    def __init__(self, details: Any, more: Pairs) -> None:
        self.method = details.method
        self.timeout = details.timeout
        self.metadata = (*(details.metadata or ()), *more)
        self.credentials = details.credentials
        self.wait_for_ready = details.wait_for_ready
        self.compression = details.compression


class _Blocking(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):  # type: ignore[type-arg]
    def __init__(self, own: Callable[[], Pairs]) -> None:
        self._own = own

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return continuation(_Details(client_call_details, self._own()), request)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return continuation(_Details(client_call_details, self._own()), request)


class _Aio:
    def __init__(self, own: Callable[[], Pairs]) -> None:
        self._own = own

    def details(self, given: Any) -> Any:
        return given._replace(metadata=grpc.aio.Metadata(*(given.metadata or ()), *self._own()))


class _AioUnary(_Aio, grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[type-arg]
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(self.details(client_call_details), request)


class _AioStream(_Aio, grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[type-arg]
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(self.details(client_call_details), request)
