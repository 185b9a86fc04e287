"""``python -m tidegate.core.kafka_setup``: topics, users and rights, once at installation and after each change.

Repeatable: what is there stays, passwords are set to what is given now, and rights that a principal of ours has beyond
the table of :mod:`tidegate.contracts.principals` are taken away.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Mapping
from contextlib import closing
from typing import Final

import structlog
from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    KafkaAdminClient,
    ResourcePattern,
    ResourcePatternFilter,
    ResourceType,
    UserScramCredentialUpsertion,
)
from kafka.errors import KafkaError
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from tidegate.contracts.principals import PRINCIPALS, Grant, grants
from tidegate.core.bus import admin_client, create_topics
from tidegate.core.errors import InvalidInput, TidegateError, Unavailable
from tidegate.core.kafka_access import explain_blocking
from tidegate.core.settings import KafkaSettings
from tidegate.core.streams import retrying
from tidegate.core.telemetry import configure_logs

MECHANISM: Final = "SCRAM-SHA-512"
BROKER_WAIT_S: Final = 120.0
ANY_HOST: Final = "*"

log = structlog.get_logger(__name__)


class KafkaSetupSettings(BaseSettings):
    """Passwords to give to the principals (prefix ``TIDEGATE_KAFKA_SETUP_``); without one, a user is left as it is."""

    model_config = SettingsConfigDict(env_prefix="TIDEGATE_KAFKA_SETUP_", frozen=True)

    registry_password: SecretStr = Field(SecretStr(""), description="Password of the user registry.")
    validator_password: SecretStr = Field(SecretStr(""), description="Password of the user validator.")
    deployer_password: SecretStr = Field(SecretStr(""), description="Password of the user deployer.")
    monitor_password: SecretStr = Field(SecretStr(""), description="Password of the user monitor.")
    producers_password: SecretStr = Field(SecretStr(""), description="Password of the user producers.")
    applications_password: SecretStr = Field(SecretStr(""), description="Password of the user applications.")
    operators_password: SecretStr = Field(SecretStr(""), description="Password of the user operators.")

    def passwords(self) -> dict[str, SecretStr]:
        """Return the passwords that are given, by principal."""
        given = {name.removesuffix("_password"): password for name, password in self}
        return {name: password for name, password in given.items() if password.get_secret_value()}


def set_up(settings: KafkaSettings, passwords: Mapping[str, SecretStr]) -> None:
    """Create what is missing, set ``passwords``, and make the rights those of the table; blocking.

    Without ``passwords`` only topics are created: then the broker need not have any security on.

    Raises:
        Unavailable: The broker can't be reached.
        Refused: The broker does not know us, or we are no administrator.
        InvalidInput: The broker does not take a user or a right.

    """
    log.info("topics are there", created=create_topics(settings))
    if not passwords:
        return
    with closing(admin_client(settings, client_id="tidegate-setup")) as admin:
        try:
            # Rights first: nobody gets in before what it may do is settled.
            _set_rights(admin, settings.topic_prefix)
            _set_users(admin, passwords)
        except KafkaError as error:
            raise explain_blocking(settings, error) from error


def _set_users(admin: KafkaAdminClient, passwords: Mapping[str, SecretStr]) -> None:
    wanted = [
        UserScramCredentialUpsertion(name, MECHANISM, password.get_secret_value())
        for name, password in passwords.items()
    ]
    refused = {name: text for name, text in admin.alter_user_scram_credentials(wanted).items() if text}
    if refused:
        raise InvalidInput(
            f"the broker does not take these users: {refused}",
            code="BROKER_USER_INVALID",
            hint="a password must not be empty",
        )
    log.info("users are there", mechanism=MECHANISM, users=sorted(passwords))


def _set_rights(admin: KafkaAdminClient, prefix: str) -> None:
    wanted = {as_acl(grant) for principal in PRINCIPALS for grant in grants(principal, prefix=prefix)}
    present = set(_present(admin, prefix))
    missing, spare = wanted - present, present - wanted
    # First what is too much: a right that moved to somebody else is never held by two.
    if spare:
        failed = [error for _, _, error in admin.delete_acls([_filter_of(acl) for acl in spare]) if error.errno]
        _all_taken(failed, "delete")
    if missing:
        _all_taken(admin.create_acls(list(missing))["failed"], "create")
    log.info("rights are those of the table", rights=len(wanted), created=len(missing), deleted=len(spare))


def _all_taken(failed: Iterable[type[KafkaError]], what: str) -> None:
    codes = sorted({error.__name__ for error in failed})
    if codes:
        raise InvalidInput(f"the broker did not {what} rights: {', '.join(codes)}", code="BROKER_RIGHTS_INVALID")


def _present(admin: KafkaAdminClient, prefix: str) -> list[ACL]:
    """Return the rights of our principals in this environment, whoever gave them; other environments' stay out."""
    found: list[ACL] = []
    for principal in PRINCIPALS:
        pattern = ResourcePatternFilter(ResourceType.ANY, None, ACLResourcePatternType.ANY)
        wanted = ACLFilter(f"User:{principal.name}", None, ACLOperation.ANY, ACLPermissionType.ANY, pattern)
        acls, _ = admin.describe_acls(wanted)
        found.extend(acl for acl in acls if _is_of(prefix, acl.resource_pattern.resource_name))
    return found


def _is_of(prefix: str, name: str) -> bool:
    return name == "*" or name.startswith((f"{prefix}.", f"{prefix}-"))


def as_acl(grant: Grant) -> ACL:
    """Return ``grant`` as the broker's access rule."""
    kind = ACLResourcePatternType.PREFIXED if grant.is_prefix else ACLResourcePatternType.LITERAL
    return ACL(
        f"User:{grant.principal}",
        ANY_HOST,
        ACLOperation[grant.operation.value],
        ACLPermissionType.ALLOW,
        ResourcePattern(ResourceType[grant.resource.value], grant.name, kind),
    )


def _filter_of(acl: ACL) -> ACLFilter:
    pattern = acl.resource_pattern
    exact = ResourcePatternFilter(pattern.resource_type, pattern.resource_name, pattern.pattern_type)
    return ACLFilter(acl.principal, acl.host, acl.operation, acl.permission_type, exact)


async def _set_up_when_there(settings: KafkaSettings, passwords: Mapping[str, SecretStr]) -> None:
    async def attempt() -> None:
        await asyncio.to_thread(set_up, settings, passwords)

    try:
        async with asyncio.timeout(BROKER_WAIT_S):
            await retrying(attempt, what="kafka set-up")
    except TimeoutError:
        raise Unavailable(
            f"no Kafka broker at {settings.bootstrap} within {BROKER_WAIT_S:.0f} s", code="BROKER_UNAVAILABLE"
        ) from None


def main() -> int:
    """Set the broker up; return 1 if that can't be done."""
    configure_logs("kafka-setup")
    try:
        asyncio.run(_set_up_when_there(KafkaSettings(), KafkaSetupSettings().passwords()))
    except TidegateError as error:
        log.error("kafka is not set up", code=error.code, error=str(error))  # noqa: TRY400  (the line says all)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
