"""``python -m tidegate.core.health SERVICE``: exit 0 if the service of this container serves, else say why not."""

from __future__ import annotations

import os
import sys
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tidegate.core.channels import open_channel
from tidegate.core.settings import CallerSettings

LOOPBACK: Final = "127.0.0.1"
ANSWER_S: Final = 20.0


def trouble(address: str) -> str:
    """Return why the gRPC server at ``address`` does not serve; empty if it does."""
    with open_channel(address, CallerSettings()) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=ANSWER_S)
        except grpc.RpcError as error:
            return f"{address}: {error.code().name}"
    serving = answer.status == health_pb2.HealthCheckResponse.SERVING
    return "" if serving else f"{address}: {health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)}"


def main(arguments: list[str]) -> int:
    """Look at the service that ``arguments`` name, at the port of its own settings."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m tidegate.core.health SERVICE\n")
        return 2
    variable = f"TIDEGATE_{arguments[0].upper()}_PORT"
    port = os.environ.get(variable)
    if port is None:
        sys.stderr.write(f"{variable} is not set: which port is {arguments[0]} on?\n")
        return 2
    found = trouble(f"{LOOPBACK}:{port}")
    if found:
        sys.stderr.write(f"{arguments[0]} does not serve: {found}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
