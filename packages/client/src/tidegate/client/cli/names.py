"""What people call a version on the command line."""

from __future__ import annotations

from tidegate.client.client import TidegateClient
from tidegate.contracts.names import format_version
from tidegate.core.errors import InvalidInput


def version_named(client: TidegateClient, reference: str) -> tuple[str, str]:
    """Return the model and the version number that ``MODEL@1.2.3`` or ``MODEL@ALIAS`` means.

    Raises:
        InvalidInput: It names no version.
        NotFound: The alias does not exist.

    """
    model, at, rest = reference.partition("@")
    if not model or not at or not rest:
        raise InvalidInput(
            f"{reference!r} names no version, expected MODEL@1.2.3 or MODEL@ALIAS",
            code="REFERENCE_INVALID",
            hint=f"`tidegate versions {model or 'MODEL'}` lists versions",
        )
    if rest[:1].isdigit():
        return model, rest
    return model, format_version(client.get_version(reference).registered.version)
