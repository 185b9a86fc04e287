"""Ending model servers through their hosts, which know them by pid and start time."""

from __future__ import annotations

from typing import Final

import grpc

from tidegate.core.channels import open_channel
from tidegate.core.settings import CallerSettings
from tidegate.v1 import modelhost_service_pb2 as pb
from tidegate.v1 import modelhost_service_pb2_grpc as pb_grpc

ANSWER_S: Final = 5.0
STOP_S: Final = 20.0


def stop_model_servers(address: str, caller: CallerSettings) -> bool:
    """Have the host at ``address`` stop all its servers; return whether it did."""
    with open_channel(address, caller) as channel:
        stub = pb_grpc.ModelHostServiceStub(channel)
        try:
            servers = stub.ListServers(pb.ListServersRequest(), timeout=ANSWER_S).servers
            for server in servers:
                stub.StopServer(pb.StopServerRequest(server_id=server.spec.server_id), timeout=STOP_S)
        except grpc.RpcError:
            return False
    return True
