"""The gRPC face of the model host: checks requests, fills defaults in, translates."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tidegate.contracts.names import format_version, is_digest, is_model, parse_version
from tidegate.core.errors import InvalidInput
from tidegate.core.object_store import parse_s3_uri
from tidegate.modelhost.host import Host
from tidegate.modelhost.lifecycle import LOAD_TIMEOUT_DEFAULT_S, Server, Spec
from tidegate.modelhost.runtimes import load_runtime
from tidegate.modelhost.sandbox import Level
from tidegate.v1 import modelhost_service_pb2 as pb
from tidegate.v1 import modelhost_service_pb2_grpc as pb_grpc
from tidegate.v1 import values_pb2

SERVICE_NAME: Final = "tidegate.v1.ModelHostService"
SERVER_ID_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.@-]{0,199}")
LOAD_TIMEOUT_MAX_S: Final = 3600.0
MEMORY_MIB_MIN: Final = 256


class ModelHostService(pb_grpc.ModelHostServiceServicer):
    """See proto/tidegate/v1/modelhost_service.proto."""

    def __init__(self, host: Host, *, runtimes_dir: Path) -> None:
        self._host = host
        self._runtimes_dir = runtimes_dir.absolute()

    async def StartServer(self, request: pb.StartServerRequest, context: Any) -> pb.StartServerResponse:  # noqa: ARG002, N802
        """See that a server runs."""
        spec = spec_from_wire(request.spec, runtimes_dir=self._runtimes_dir)
        return pb.StartServerResponse(server=server_to_wire(await self._host.start(spec)))

    async def StopServer(self, request: pb.StopServerRequest, context: Any) -> pb.StopServerResponse:  # noqa: ARG002, N802
        """See that a server is gone."""
        await self._host.stop(_server_id(request.server_id, "server_id"))
        return pb.StopServerResponse()

    async def ListServers(self, request: pb.ListServersRequest, context: Any) -> pb.ListServersResponse:  # noqa: ARG002, N802
        """List all servers."""
        return pb.ListServersResponse(servers=[server_to_wire(server) for server in await self._host.list()])

    async def GetServerLog(self, request: pb.GetServerLogRequest, context: Any) -> pb.GetServerLogResponse:  # noqa: ARG002, N802
        """Get the last lines of a log."""
        server_id = _server_id(request.server_id, "server_id")
        return pb.GetServerLogResponse(text=self._host.log_text(server_id, request.line_count))


def spec_from_wire(spec: pb.ServerSpec, *, runtimes_dir: Path) -> Spec:
    """Return ``spec`` with its defaults filled in.

    Raises:
        InvalidInput: A field is wrong; the error names it.
        FailedPrecondition: The runtime is not installed.

    """
    runtime = load_runtime(runtimes_dir, spec.runtime)
    _require(is_model(spec.model), "model", spec.model, "a model name")
    _require(is_digest(spec.artifact.digest), "artifact.digest", spec.artifact.digest, "sha256: and 64 hex digits")
    _require(
        spec.artifact.format in runtime.formats, "artifact.format", spec.artifact.format, f"one of {runtime.formats}"
    )
    timeout_s = spec.load_timeout_s or LOAD_TIMEOUT_DEFAULT_S
    _require(0 < timeout_s <= LOAD_TIMEOUT_MAX_S, "load_timeout_s", timeout_s, f"0 to {LOAD_TIMEOUT_MAX_S:g}")
    memory_mib = spec.memory_mib_max or runtime.memory_mib_default
    _require(memory_mib >= MEMORY_MIB_MIN, "memory_mib_max", memory_mib, f"at least {MEMORY_MIB_MIN}")
    min_sandbox = spec.min_sandbox or Level.LIMITS.value
    _require(min_sandbox in {*Level}, "min_sandbox", min_sandbox, f"one of {[level.value for level in Level]}")
    _require(_is_s3(spec.artifact.uri), "artifact.uri", spec.artifact.uri, "s3://bucket/key")
    return Spec(
        server_id=_server_id(spec.server_id, "spec.server_id"),
        model=spec.model,
        version=format_version(spec.version),
        artifact_uri=spec.artifact.uri,
        artifact_digest=spec.artifact.digest,
        artifact_format=spec.artifact.format,
        runtime=spec.runtime,
        load_timeout_s=timeout_s,
        memory_mib_max=memory_mib,
        min_sandbox=min_sandbox,
        restart=spec.restart,
    )


def spec_to_wire(spec: Spec) -> pb.ServerSpec:
    """Return ``spec`` as a message."""
    artifact = values_pb2.Artifact(uri=spec.artifact_uri, digest=spec.artifact_digest, format=spec.artifact_format)
    return pb.ServerSpec(
        server_id=spec.server_id,
        model=spec.model,
        version=parse_version(spec.version),
        artifact=artifact,
        runtime=spec.runtime,
        load_timeout_s=spec.load_timeout_s,
        memory_mib_max=spec.memory_mib_max,
        min_sandbox=spec.min_sandbox,
        restart=spec.restart,
    )


def server_to_wire(server: Server) -> pb.Server:
    """Return ``server`` as a message."""
    message = pb.Server(
        spec=spec_to_wire(server.spec),
        state=pb.ServerState.Value(f"SERVER_STATE_{server.state.value}"),
        endpoint=server.endpoint,
        exit_code=server.exit_code,
        load_time_ms=server.load_time_ms,
        peak_memory_bytes=server.peak_memory_bytes,
        sandbox=server.sandbox,
        restarts=server.restarts,
        runtime_digest=server.runtime_digest,
    )
    if server.process is not None:
        message.pid = server.process.pid
        message.start_time.FromDatetime(datetime.fromtimestamp(server.process.create_time_s, tz=UTC))
    if server.reason is not None:
        message.reason.CopyFrom(values_pb2.Reason(code=server.reason.code, message=server.reason.message))
    return message


def _server_id(text: str, field: str) -> str:
    if not SERVER_ID_PATTERN.fullmatch(text):
        raise InvalidInput(
            f"{field} is {text!r}, expected {SERVER_ID_PATTERN.pattern}", code="SERVER_ID_INVALID", field=field
        )
    return text


def _is_s3(uri: str) -> bool:
    try:
        return bool(parse_s3_uri(uri))
    except InvalidInput:
        return False


def _require(condition: bool, field: str, found: object, expected: str) -> None:  # noqa: FBT001
    if not condition:
        raise InvalidInput(
            f"spec.{field} is {found!r}, expected {expected}", code="SPEC_INVALID", field=f"spec.{field}"
        )
