"""TLS of gRPC servers and channels, from the files that the settings name."""

from __future__ import annotations

from pathlib import Path

import grpc

from tidegate.core.errors import InvalidInput
from tidegate.core.settings import AccessSettings, CallerSettings


def server_tls_of(settings: AccessSettings) -> grpc.ServerCredentials | None:
    """Return the server's certificate, and who signs its callers' if they need one; None = no TLS.

    Raises:
        InvalidInput: A file can't be read (code FILE_UNREADABLE).

    """
    if settings.tls_cert_file is None or settings.tls_key_file is None:
        return None
    pair = (read_file(settings.tls_key_file, "our key"), read_file(settings.tls_cert_file, "our certificate"))
    client_ca = settings.tls_client_ca_file
    return grpc.ssl_server_credentials(
        [pair],
        root_certificates=read_file(client_ca, "the callers' certificates") if client_ca else None,
        require_client_auth=client_ca is not None,
    )


def channel_tls_of(settings: CallerSettings) -> grpc.ChannelCredentials | None:
    """Return whom we trust and who we are, if servers are spoken to by TLS; None = no TLS.

    Raises:
        InvalidInput: A file can't be read (code FILE_UNREADABLE).

    """
    if settings.tls_ca_file is None:
        return None
    key, own = settings.tls_key_file, settings.tls_cert_file
    return grpc.ssl_channel_credentials(
        root_certificates=read_file(settings.tls_ca_file, "the servers' certificates"),
        private_key=read_file(key, "our key") if key else None,
        certificate_chain=read_file(own, "our certificate") if own else None,
    )


def read_file(path: Path, what: str) -> bytes:
    """Return the bytes at ``path``.

    Raises:
        InvalidInput: They can't be read (code FILE_UNREADABLE).

    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{what} can't be read from {path}: {error.strerror}", code="FILE_UNREADABLE") from None
