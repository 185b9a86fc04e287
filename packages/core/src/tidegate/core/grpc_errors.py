"""What an error says that another service answered with: its reason, and the fields at fault."""

from __future__ import annotations

from typing import Any

from google.rpc import error_details_pb2
from grpc_status import rpc_status


def details_of(error: Any) -> list[Any]:
    """Return the ErrorInfo and the BadRequest that a failed call carries, as far as it does."""
    status = rpc_status.from_call(error)
    found = []
    for packed in status.details if status is not None else ():
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest):
            detail = kind()
            if packed.Unpack(detail):
                found.append(detail)
    return found


def reason_of(error: Any) -> str:
    """Return the reason that a failed call carries, "" if it carries none."""
    infos = (detail for detail in details_of(error) if isinstance(detail, error_details_pb2.ErrorInfo))
    return next((str(info.reason) for info in infos), "")
