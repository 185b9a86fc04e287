"""Who we are to the broker: the options that all Kafka clients share, and what a refusal means.

Clients say of a wrong password only that they found no broker (aiokafka), or nothing until they time out
(kafka-python). So we log in once ourselves: before kafka-python does, and after aiokafka failed.
"""

from __future__ import annotations

import asyncio
import ssl
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import faust
from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import (
    AuthenticationFailedError,
    AuthenticationMethodNotSupported,
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    IllegalSaslStateError,
    KafkaError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    UnsupportedSaslMechanismError,
)
from kafka.errors import AuthorizationError, SaslAuthenticationFailedError
from kafka.errors import UnsupportedSaslMechanismError as AdminUnsupportedSaslMechanismError

from tidegate.core.errors import Refused, TidegateError, Unavailable
from tidegate.core.settings import KafkaSettings

LOGIN_TIMEOUT_MS: Final = 5_000
# A group's leader that asks a broker which is just coming up hears of no topics, and shares out nothing until it asks
# again: by the clients' default after five minutes.
METADATA_AGE_MS_MAX: Final = 5_000
CREDENTIALS_HINT: Final = (
    "see TIDEGATE_KAFKA_USERNAME and TIDEGATE_KAFKA_PASSWORD; "
    "`python -m tidegate.core.kafka_setup` makes the broker's users and their passwords"
)
RIGHTS_HINT: Final = (
    "`python -m tidegate.core.kafka_setup` gives each user its rights; see TIDEGATE_KAFKA_USERNAME for who this is"
)
_LOGIN_REFUSED: Final = (
    AuthenticationFailedError,
    AuthenticationMethodNotSupported,
    IllegalSaslStateError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
    SaslAuthenticationFailedError,
    AdminUnsupportedSaslMechanismError,
)
_FORBIDDEN: Final = (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    IllegalSaslStateError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    AuthorizationError,
)


def client_options(settings: KafkaSettings) -> dict[str, Any]:
    """Return where the broker is and who we are, in the words that aiokafka and kafka-python have in common."""
    return _access_options(settings) | {
        "bootstrap_servers": settings.bootstrap.split(","),
        "metadata_max_age_ms": METADATA_AGE_MS_MAX,
    }


def _access_options(settings: KafkaSettings) -> dict[str, Any]:
    options: dict[str, Any] = {"security_protocol": settings.security_protocol}
    if settings.uses_tls:
        options["ssl_context"] = _tls(settings)
    if settings.uses_sasl:
        options["sasl_mechanism"] = settings.sasl_mechanism
        options["sasl_plain_username"] = settings.username
        options["sasl_plain_password"] = settings.password.get_secret_value()
    return options


def faust_credentials(settings: KafkaSettings) -> faust.types.auth.CredentialsT | None:
    """Return the same for faust; None where the broker asks for nothing."""
    context = _tls(settings) if settings.uses_tls else None
    if settings.uses_sasl:
        return faust.SASLCredentials(
            username=settings.username,
            password=settings.password.get_secret_value(),
            mechanism=settings.sasl_mechanism,
            ssl_context=context,
        )
    return faust.SSLCredentials(context) if context is not None else None


async def explain(settings: KafkaSettings, error: Exception) -> TidegateError:
    """Return what ``error``, which a client failed with, comes from: Refused, or Unavailable."""
    if isinstance(error, _FORBIDDEN):
        return forbidden(settings, error)
    refusal = error if isinstance(error, _LOGIN_REFUSED) else await _login_refusal(settings)
    if refusal is None:
        return Unavailable(f"no Kafka broker at {settings.bootstrap}: {error}", code="BROKER_UNAVAILABLE")
    return _not_let_in(settings, refusal)


def check_login_blocking(settings: KafkaSettings) -> None:
    """Log in once, where there is a broker that wants it; for clients that are not asynchronous.

    Raises:
        Refused: The broker does not let us in.

    """
    if not settings.uses_sasl:
        return
    # A thread of its own: the caller's may have an event loop.
    with ThreadPoolExecutor(max_workers=1) as executor:
        refusal = executor.submit(lambda: asyncio.run(_login_refusal(settings))).result()
    if refusal is not None:
        raise _not_let_in(settings, refusal)


def explain_blocking(settings: KafkaSettings, error: Exception) -> TidegateError:
    """Return what ``error`` comes from, as :func:`explain`, for clients that are not asynchronous."""
    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(lambda: asyncio.run(explain(settings, error))).result()


def _not_let_in(settings: KafkaSettings, refusal: Exception) -> Refused:
    return Refused(
        f"the Kafka broker at {settings.bootstrap} does not let user {settings.username!r} in "
        f"({settings.security_protocol}, {settings.sasl_mechanism}): wrong name or password? It said: {refusal}",
        code="BROKER_LOGIN_REFUSED",
        hint=CREDENTIALS_HINT,
    )


def is_forbidden(error: Exception) -> bool:
    """Say whether the broker knows us and does not let us do what we asked for."""
    return isinstance(error, _FORBIDDEN)


def forbidden(settings: KafkaSettings, error: Exception, *, what: str = "what it asked for") -> Refused:
    """Return the error for something that the broker's rules do not let us do."""
    user = repr(settings.username) if settings.uses_sasl else "without a name"
    return Refused(
        f"the Kafka broker at {settings.bootstrap} does not let user {user} do {what}: {error}",
        code="BROKER_FORBIDS",
        hint=RIGHTS_HINT,
    )


async def _login_refusal(settings: KafkaSettings) -> Exception | None:
    """Log in once; return why the broker refused, or None if it let us in or was not there."""
    if not settings.uses_sasl:
        return None
    options = _access_options(settings)
    for host, port, _ in collect_hosts(settings.bootstrap.split(",")):
        try:
            connection = await create_conn(host, port, request_timeout_ms=LOGIN_TIMEOUT_MS, **options)
        except _LOGIN_REFUSED as refusal:
            return Exception(str(refusal) or type(refusal).__name__)
        except (KafkaError, OSError, TimeoutError):
            # Not there, or something else: the client's own error says more.
            continue
        connection.close()
    return None


def _tls(settings: KafkaSettings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=settings.ssl_cafile)
    if settings.ssl_certfile:
        context.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile)
    return context
