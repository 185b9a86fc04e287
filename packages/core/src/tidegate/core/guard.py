"""The lock on every door: each call is let in by its caller's role, or refused, counted and logged."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final

import grpc
import structlog
from structlog.contextvars import bind_contextvars

from tidegate.contracts.access import ACCESS, GATEWAY_CALLS, Access, Role, Scope, model_of
from tidegate.core.callers import Caller, Callers, CallersFile, FixedCallers, set_current_caller
from tidegate.core.clock import utc_now
from tidegate.core.errors import PermissionDenied, Unauthenticated
from tidegate.core.handlers import surrounded
from tidegate.core.metrics import GRPC_REFUSED
from tidegate.core.settings import AccessSettings

HEADER: Final = "authorization"
SCHEME: Final = "bearer"
# Names in a verified certificate, as gRPC tells them.
CERTIFICATE_NAMES: Final = ("x509_common_name", "x509_subject_alternative_name")
# An Envoy whose environment has no token sends a dash in its place.
NO_TOKENS: Final = ("", "-")
OLD_GATEWAY: Final = Caller(name="gateway-without-token", role=Role.SERVICE)

log = structlog.get_logger(__name__)


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Asks of each call who makes it (a bearer token, else a certificate), and lets it in by the access table."""

    def __init__(self, settings: AccessSettings, *, now: Callable[[], datetime] = utc_now) -> None:
        self._insecure = settings.insecure
        self._admits_old_gateways = settings.admit_old_gateways
        self._known = _source(settings)
        self._now = now
        if self._insecure:
            log.warning("INSECURE: nobody is asked who they are, whoever reaches this port may do anything")
        elif self._admits_old_gateways:
            log.warning("gateways are let in without a token until the next start of the stack")

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wrap handlers of every kind."""
        handler = await continuation(handler_call_details)
        method = str(handler_call_details.method)
        access = ACCESS.get(method)
        if handler is None or self._insecure or (access is not None and access.role is None):
            return handler

        @asynccontextmanager
        async def guarded(request: Any, context: Any) -> AsyncIterator[None]:
            caller: Caller | None = None
            try:
                caller = self._caller(method, context)
                check_access(caller, method, access, request)
                set_current_caller(caller)
                bind_contextvars(caller=caller.name)
                yield
            except (Unauthenticated, PermissionDenied) as error:
                name = caller.name if caller is not None else ""
                GRPC_REFUSED.labels(method.removeprefix("/"), name, error.code).inc()
                log.warning("call refused", method=method, caller=name, peer=context.peer(), code=error.code)
                raise

        return surrounded(handler, guarded)

    def _caller(self, method: str, context: Any) -> Caller:
        known = self._known.callers() if self._known else Callers(())
        metadata = dict(context.invocation_metadata() or ())
        token = bearer(str(metadata[HEADER])) if HEADER in metadata else ""
        if token not in NO_TOKENS:
            return self._living(known.with_token(token), what="token")
        names = certificate_names(context.auth_context())
        if names:
            return self._living(known.with_certificate(names), what="certificate")
        if self._admits_old_gateways and method in GATEWAY_CALLS:
            return OLD_GATEWAY
        raise Unauthenticated(
            "the call has no token, expected the metadata authorization: Bearer TOKEN",
            code="TOKEN_MISSING",
            hint="set TIDEGATE_TOKEN or TIDEGATE_TOKEN_FILE; the embedded stack's commands find theirs by themselves",
        )

    def _living(self, caller: Caller | None, *, what: str) -> Caller:
        if caller is None:
            raise Unauthenticated(
                f"the {what} is not known here",
                code="TOKEN_UNKNOWN",
                hint="see that it belongs to this installation, and that it was not revoked",
            )
        if caller.has_expired(self._now()):
            raise Unauthenticated(f"the {what} of {caller.name} has expired", code="TOKEN_EXPIRED")
        return caller


def _source(settings: AccessSettings) -> CallersFile | FixedCallers | None:
    if settings.insecure:
        return None
    return CallersFile(settings.tokens_file) if settings.tokens_file else FixedCallers(settings.tokens)


def bearer(text: str) -> str:
    """Return the token in ``Bearer TOKEN`` (RFC 6750).

    Raises:
        Unauthenticated: The text is something else.

    """
    scheme, _, token = text.partition(" ")
    if scheme.lower() != SCHEME or not token.strip():
        raise Unauthenticated("authorization is not of the form Bearer TOKEN", code="TOKEN_MISSING")
    return token.strip()


def certificate_names(authentication: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names in the caller's verified certificate; none without one."""
    return tuple(name.decode(errors="replace") for key in CERTIFICATE_NAMES for name in authentication.get(key, ()))


def check_access(caller: Caller, method: str, access: Access | None, request: Any) -> None:
    """See that ``caller`` may call ``method`` with ``request`` (None where it streams requests).

    Raises:
        PermissionDenied: It may not.

    """
    if access is None or access.role is None:
        raise PermissionDenied(f"nobody may call {method}: it is not in the table of roles", code="CALL_NOT_LISTED")
    if not caller.role.covers(access.role):
        raise PermissionDenied(
            f"{caller.name} is {caller.role.value}, {method.rpartition('/')[2]} wants {access.role.value}",
            code="ROLE_INSUFFICIENT",
            hint="docs/security.md says which role each call wants",
        )
    if access.scope is Scope.FIELD:
        caller.check_model(model_of(request, access.field))
    elif access.scope is Scope.ALL and caller.models:
        raise PermissionDenied(
            f"{caller.name} may touch models that begin with {caller.models!r}, and this call concerns all",
            code="MODEL_NOT_YOURS",
        )
