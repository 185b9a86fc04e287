"""gRPC servers: health, reflection, who may call, and rich errors with a stable reason (google.rpc.ErrorInfo)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc
import structlog
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

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
from tidegate.core.guard import Guard
from tidegate.core.handlers import surrounded
from tidegate.core.interceptors import TelemetryInterceptor
from tidegate.core.settings import AccessSettings
from tidegate.core.tls import server_tls_of

ERROR_DOMAIN: Final = "tidegate"
MESSAGE_BYTES_MAX: Final = 4 * 1024 * 1024
PING_SHORTEST_MS: Final = 1_000

# First match wins: subclasses stand before their bases.
_CODES: Final = (
    (Unauthenticated, code_pb2.UNAUTHENTICATED),
    (PermissionDenied, code_pb2.PERMISSION_DENIED),
    (NotFound, code_pb2.NOT_FOUND),
    (FailedPrecondition, code_pb2.FAILED_PRECONDITION),
    (InvalidInput, code_pb2.INVALID_ARGUMENT),
    (AlreadyExists, code_pb2.ALREADY_EXISTS),
    (Conflict, code_pb2.ABORTED),
    (Unavailable, code_pb2.UNAVAILABLE),
)

log = structlog.get_logger(__name__)


def to_status(error: TidegateError) -> status_pb2.Status:
    """Return the rich status of ``error``."""
    code = next((code for kind, code in _CODES if isinstance(error, kind)), code_pb2.INTERNAL)
    details = [_packed(error_details_pb2.ErrorInfo(reason=error.code, domain=ERROR_DOMAIN))]
    if error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=str(error))
        details.append(_packed(error_details_pb2.BadRequest(field_violations=[violation])))
    return status_pb2.Status(code=code, message=str(error), details=details)


def _packed(message: Any) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed


class ErrorInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Turns the errors of a servicer into rich statuses; anything unknown becomes INTERNAL and is logged."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wrap handlers of every kind."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method

        @asynccontextmanager
        async def translated(_request: Any, context: Any) -> AsyncIterator[None]:
            try:
                yield
            except TidegateError as error:
                await context.abort_with_status(rpc_status.to_status(to_status(error)))
            except grpc.aio.AbortError:
                raise
            except Exception:
                log.exception("call failed unexpectedly", method=method)
                await context.abort(grpc.StatusCode.INTERNAL, "internal error; see the service's log")

        return handler if handler is None else surrounded(handler, translated)


class GrpcServer:
    """A gRPC server with health and reflection; ``port`` is known after :meth:`start`."""

    def __init__(self, *, service_names: Sequence[str], access: AccessSettings) -> None:
        self._access = access
        self.server = grpc.aio.server(
            interceptors=[TelemetryInterceptor(), ErrorInterceptor(), Guard(access)],
            options=[
                ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
                ("grpc.so_reuseport", 0),
                # Envoy pings its streams; by default a server takes that for abuse and hangs up.
                ("grpc.http2.min_recv_ping_interval_without_data_ms", PING_SHORTEST_MS),
                ("grpc.http2.min_ping_interval_without_data_ms", PING_SHORTEST_MS),
                ("grpc.http2.max_ping_strikes", 0),
                ("grpc.keepalive_permit_without_calls", 1),
            ],
        )
        self.port = 0
        self._names = [*service_names]
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]  # defined where grpc.aio exists
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.server)
        reflection.enable_server_reflection([*service_names, health.SERVICE_NAME, reflection.SERVICE_NAME], self.server)

    async def start(self, host: str, port: int) -> int:
        """Listen and return the port; healthy only after :meth:`set_ready`.

        Raises:
            Unavailable: The port is taken.
            InvalidInput: A certificate can't be read.

        """
        address, credentials = f"{host}:{port}", server_tls_of(self._access)
        try:
            self.port = (
                self.server.add_secure_port(address, credentials)
                if credentials is not None
                else self.server.add_insecure_port(address)
            )
        except RuntimeError as error:
            raise Unavailable(f"cannot listen on {host}:{port}: {error}", code="PORT_TAKEN") from error
        await self._set(health_pb2.HealthCheckResponse.NOT_SERVING)
        await self.server.start()
        return self.port

    async def set_ready(self) -> None:
        """Say healthy from now on."""
        await self._set(health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, grace_s: float = 2.0) -> None:
        """Refuse new calls, let running ones end within ``grace_s``, stop."""
        await self._health.enter_graceful_shutdown()
        await self.server.stop(grace_s)

    async def _set(self, status: Any) -> None:
        for name in ("", *self._names):
            await self._health.set(name, status)
