"""The sandbox: a model host of the validator's own, and the one server that a validation starts in it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, Self

import grpc
import httpx
import structlog

from tidegate.core.channels import open_aio_channel
from tidegate.core.errors import Unavailable
from tidegate.core.settings import CallerSettings
from tidegate.v1 import modelhost_service_pb2 as pb
from tidegate.v1.modelhost_service_pb2_grpc import ModelHostServiceStub
from tidegate.validator.inference import InferenceRequest
from tidegate.validator.metrics import stage
from tidegate.validator.queries import outputs_of
from tidegate.validator.verdict import Answer

SERVER_PREFIX: Final = "validation-"
POLL_S: Final = 0.1
CALL_TIMEOUT_S: Final = 15.0
LOG_LINES: Final = 60
START_MARGIN_S: Final = 30.0
NOT_FINITE_MARK: Final = "OUTPUT_NOT_FINITE"
FAILURE_TEXT_MAX: Final = 500
CHUNK_BYTES: Final = 1 << 16

log = structlog.get_logger(__name__)


class Sandbox:
    """Starts, asks and stops servers; every method raises Unavailable while the model host is away."""

    def __init__(self, address: str) -> None:
        self._channel = open_aio_channel(address, CallerSettings())
        self._stub = ModelHostServiceStub(self._channel)

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close(None)

    async def clear(self) -> None:
        """Stop what an earlier life of the validator may have left."""
        listed = await self._call(self._stub.ListServers(pb.ListServersRequest(), timeout=CALL_TIMEOUT_S))
        for server in listed.servers:
            if server.spec.server_id.startswith(SERVER_PREFIX):
                await self.stop(server.spec.server_id)

    async def stop(self, server_id: str) -> None:
        """See that a server is gone."""
        await self._call(self._stub.StopServer(pb.StopServerRequest(server_id=server_id), timeout=CALL_TIMEOUT_S))

    async def log_tail(self, server_id: str) -> str:
        """Return the last lines of a server's log."""
        request = pb.GetServerLogRequest(server_id=server_id, line_count=LOG_LINES)
        try:
            answer = await self._stub.GetServerLog(request, timeout=CALL_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            return f"(no log: {error.details()})"
        return str(answer.text)

    @asynccontextmanager
    async def running(self, spec: pb.ServerSpec) -> AsyncIterator[pb.Server]:
        """Start a server and yield it READY or FAILED; it is gone afterwards, whatever happened."""
        try:
            yield await self._started(spec)
        finally:
            await asyncio.shield(self.stop(spec.server_id))

    async def look(self, server_id: str) -> pb.Server:
        """Return a server as it is now."""
        listed = await self._call(self._stub.ListServers(pb.ListServersRequest(), timeout=CALL_TIMEOUT_S))
        found: list[pb.Server] = [one for one in listed.servers if one.spec.server_id == server_id]
        if found:
            return found[0]
        raise Unavailable(f"the model host has lost server {server_id!r}", code="MODEL_HOST_LOST_SERVER")

    @stage("start")
    async def _started(self, spec: pb.ServerSpec) -> pb.Server:
        request = pb.StartServerRequest(spec=spec)
        try:
            await self._stub.StartServer(request, timeout=CALL_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            if error.code() in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION}:
                failed = pb.Server(spec=spec, state=pb.SERVER_STATE_FAILED)
                failed.reason.code, failed.reason.message = "LOAD_FAILED", str(error.details())
                return failed
            raise _away(error) from error
        deadline_s = time.monotonic() + spec.load_timeout_s + START_MARGIN_S
        while True:
            server = await self.look(spec.server_id)
            if server.state in {pb.SERVER_STATE_READY, pb.SERVER_STATE_FAILED}:
                return server
            if time.monotonic() > deadline_s:
                server.state = pb.SERVER_STATE_FAILED
                server.reason.code = "LOAD_TIMEOUT"
                server.reason.message = f"not ready after {spec.load_timeout_s:g} s"
                return server
            await asyncio.sleep(POLL_S)

    async def _call(self, call: Any) -> Any:
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise _away(error) from error


def _away(error: grpc.aio.AioRpcError) -> Unavailable:
    return Unavailable(f"the model host is away: {error.code().name}: {error.details()}", code="MODEL_HOST_UNAVAILABLE")


class AnswerTooLargeError(Exception):
    """A server answers with more than anybody asked for."""


class ServerClient:
    """Asks one server by the Open Inference Protocol v2 (REST) over its socket or port; use as ``async with``."""

    def __init__(self, endpoint: str, model: str, *, timeout_s: float, answer_bytes_max: int) -> None:
        is_socket = endpoint.startswith("unix:")
        transport = httpx.AsyncHTTPTransport(uds=endpoint.removeprefix("unix:")) if is_socket else None
        base = "http://sandbox" if is_socket else f"http://{endpoint}"
        self._client = httpx.AsyncClient(transport=transport, base_url=base, timeout=timeout_s, trust_env=False)
        self._path = f"/v2/models/{model}/infer"
        self._timeout_s = timeout_s
        self._answer_bytes_max = answer_bytes_max

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def ask(self, request: InferenceRequest) -> tuple[Answer, dict[str, Any]]:
        """Return what a request brought, and the body of the answer ({} if it failed)."""
        begin = time.perf_counter()
        try:
            # httpx bounds each read; a server that trickles must not escape the bound.
            status, content = await asyncio.wait_for(self._post(request), self._timeout_s)
            latency_ms = (time.perf_counter() - begin) * 1000
            if status != httpx.codes.OK:
                return _refused(status, content), {}
            body = json.loads(content)
            outputs = outputs_of(body)
        except (TimeoutError, httpx.TimeoutException):
            return Answer(failure=f"no answer within {self._timeout_s:g} s", failure_code="QUERY_TIMEOUT"), {}
        except httpx.HTTPError as error:
            return Answer(failure=f"{type(error).__name__}: {error}"[:FAILURE_TEXT_MAX]), {}
        except AnswerTooLargeError as error:
            return Answer(failure=str(error), failure_code="ANSWER_TOO_LARGE"), {}
        except (ValueError, RecursionError) as error:
            # A hostile model may answer anything: that is a verdict about it, never our end.
            text = f"the answer is no inference answer: {error}"
            return Answer(failure=text[:FAILURE_TEXT_MAX], failure_code="ANSWER_MALFORMED"), {}
        return Answer(outputs=outputs, latency_ms=latency_ms), body

    async def _post(self, request: InferenceRequest) -> tuple[int, bytes]:
        """Return status and content; a compressed answer counts by its size when unpacked.

        Raises:
            AnswerTooLargeError: There is more of it than the limit; the rest is not read.

        """
        # Asking for no compression does not stop a hostile server, but no honest one need bother.
        headers = {**request.headers, "Accept-Encoding": "identity"}
        content = bytearray()
        async with self._client.stream("POST", self._path, content=request.body, headers=headers) as response:
            async for chunk in response.aiter_bytes(CHUNK_BYTES):
                content += chunk
                if len(content) > self._answer_bytes_max:
                    raise AnswerTooLargeError(
                        f"the answer is larger than {self._answer_bytes_max} bytes, expected at most that "
                        "(TIDEGATE_VALIDATOR_ANSWER_BYTES_MAX)"
                    )
        return response.status_code, bytes(content)


def _refused(status: int, content: bytes) -> Answer:
    text = content[:FAILURE_TEXT_MAX].decode(errors="replace")
    code = "ANSWER_NOT_FINITE" if NOT_FINITE_MARK in text else "QUERY_FAILED"
    return Answer(failure=f"HTTP {status}: {text}", failure_code=code)
