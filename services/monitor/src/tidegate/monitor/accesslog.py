"""Envoy's access log service: one entry an upstream attempt (Router.upstream_log), turned into attempts.

What Envoy says where was verified on Envoy 1.40: ``common_properties.upstream_cluster`` is the real member of a
composite cluster, ``common_properties.duration`` and ``start_time`` are the attempt's own, and an attempt without an
answer has no ``response_code``.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from functools import lru_cache
from typing import Any, Final

import structlog
from envoy.service.accesslog.v3 import als_pb2, als_pb2_grpc

from tidegate.contracts.names import is_model, parse_version
from tidegate.monitor.batches import STATUS_CLIENT_CLOSED, Assembler, Attempt, Key
from tidegate.monitor.metrics import LOG_ENTRIES

SERVICE_NAME: Final = "envoy.service.accesslog.v3.AccessLogService"
LOG_NAME: Final = "tidegate-upstream"
ARM_HEADER: Final = "x-tidegate-arm"
ROUTE_HEADER: Final = "x-tidegate-route"
UNIT_HEADER: Final = "x-tidegate-unit"
REQUEST_ID_CHARS_MAX: Final = 128
# Envoy marks the host of a mirrored request; its answer is nobody's.
MIRROR_SUFFIX: Final = "-shadow"

_TAKEN: Final = LOG_ENTRIES.labels("taken")
_IGNORED: Final = LOG_ENTRIES.labels("ignored")

log = structlog.get_logger(__name__)


class AccessLogService(als_pb2_grpc.AccessLogServiceServicer):  # type: ignore[misc,unused-ignore]
    """Takes the entries of every proxy and hands their attempts to the assembler."""

    def __init__(self, assembler: Assembler) -> None:
        self._assembler = assembler

    async def StreamAccessLogs(self, request_iterator: AsyncIterator[Any], context: Any) -> Any:  # noqa: N802, ARG002
        """Take entries until the proxy goes; the identifier stands in the first message only."""
        node_id, log_name = "", ""
        async for message in request_iterator:
            if message.HasField("identifier"):
                node_id, log_name = message.identifier.node.id, message.identifier.log_name
                log.info("proxy connected", node_id=node_id, log_name=log_name)
            if log_name == LOG_NAME:
                self._take(node_id, message.http_logs.log_entry)
        return als_pb2.StreamAccessLogsResponse()

    def _take(self, node_id: str, entries: Any) -> None:
        taken = 0
        for entry in entries:
            attempt = read_attempt(node_id, entry)
            if attempt is not None:
                taken += 1
                self._assembler.add(attempt)
        # Once for all entries of a message: a gateway sends many in one.
        _TAKEN.inc(taken)
        _IGNORED.inc(len(entries) - taken)


def read_attempt(node_id: str, entry: Any) -> Attempt | None:
    """Return the attempt that ``entry`` reports; None if it is not a prediction routed by us."""
    headers = entry.request.request_headers
    if entry.request.authority.endswith(MIRROR_SUFFIX):
        return None
    route = parse_route(headers.get(ROUTE_HEADER, ""))
    assigned_arm = headers.get(ARM_HEADER, "")
    common = entry.common_properties
    _, _, answering_arm = common.upstream_cluster.rpartition("@")
    request_id = entry.request.request_id
    if route is None or not _is_version(assigned_arm) or not 0 < len(request_id) <= REQUEST_ID_CHARS_MAX:
        return None
    if not _is_version(answering_arm):
        return None
    model, epoch, revision = route
    return Attempt(
        key=Key(node_id=node_id, model=model, epoch=epoch, revision=revision),
        request_id=request_id,
        assigned_arm=assigned_arm,
        answering_arm=answering_arm,
        status=_status(entry),
        start_us=common.start_time.seconds * 1_000_000 + common.start_time.nanos // 1000,
        latency_us=common.duration.seconds * 1_000_000 + common.duration.nanos // 1000,
        unit_hash=_unit_hash(headers.get(UNIT_HEADER, "")),
    )


def _status(entry: Any) -> int:
    if entry.response.HasField("response_code"):
        return int(entry.response.response_code.value)
    if entry.common_properties.response_flags.downstream_connection_termination:
        return STATUS_CLIENT_CLOSED
    return 0


@lru_cache(maxsize=4096)
def parse_route(text: str) -> tuple[str, int, int] | None:
    """Return model, epoch and revision of ``<model>/<epoch>/<revision>``; None if ``text`` has another form."""
    parts = text.split("/")
    if len(parts) != 3 or not is_model(parts[0]) or not parts[1].isdecimal() or not parts[2].isdecimal():
        return None
    return parts[0], int(parts[1]), int(parts[2])


@lru_cache(maxsize=4096)
def _is_version(text: str) -> bool:
    try:
        parse_version(text)
    except ValueError:
        return False
    return True


def _unit_hash(unit: str) -> int:
    if not unit:
        return 0
    return int.from_bytes(hashlib.blake2b(unit.encode(), digest_size=8).digest(), "big")
