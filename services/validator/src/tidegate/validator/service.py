"""The validator's gRPC server: health and reflection; everything else it says in events."""

from __future__ import annotations

from tidegate.core.grpc_server import GrpcServer
from tidegate.core.settings import AccessSettings


def create_server() -> GrpcServer:
    """Return the server, not yet listening."""
    return GrpcServer(service_names=[], access=AccessSettings())
