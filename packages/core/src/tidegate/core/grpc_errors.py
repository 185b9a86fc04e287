"""The stable reason in an error that another service answered with."""

from __future__ import annotations

from typing import Any

from google.rpc import error_details_pb2
from grpc_status import rpc_status


def reason_of(error: Any) -> str:
    """Return the reason of the ErrorInfo that a failed call carries, "" if it carries none."""
    status = rpc_status.from_call(error)
    for packed in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if packed.Unpack(info):
            return str(info.reason)
    return ""
