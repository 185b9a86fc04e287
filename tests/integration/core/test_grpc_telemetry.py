"""Calls of every kind are counted with the code that their caller got, on a real server."""

# ruff: noqa: N802  (the names in the proto)

from __future__ import annotations

import asyncio

import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, format_trace_id
from prometheus_client import REGISTRY

from tidegate.core import tracing
from tidegate.core.channels import open_aio_channel
from tidegate.core.errors import NotFound
from tidegate.core.grpc_server import GrpcServer
from tidegate.core.settings import AccessSettings, CallerSettings
from tidegate.v1 import rollout_service_pb2 as api
from tidegate.v1 import rollout_service_pb2_grpc as rpc

SERVICE = "tidegate.v1.RolloutService"
DEADLINE_S = 30.0


class Servicer(rpc.RolloutServiceServicer):
    def __init__(self):
        self.seen = []
        self.began = asyncio.Event()

    async def GetRollout(self, request, context):
        if request.rollout_id == "broken":
            raise RuntimeError("a bug")
        if request.rollout_id == "slow":
            self.began.set()
            await asyncio.sleep(DEADLINE_S)
        raise NotFound("no such rollout", code="ROLLOUT_NOT_FOUND")

    async def AbortRollout(self, request, context):
        self.seen.append(dict(structlog.contextvars.get_contextvars()))
        return api.AbortRolloutResponse()

    async def ListRollouts(self, request, context):
        self.seen.append(dict(structlog.contextvars.get_contextvars()))
        return api.ListRolloutsResponse()

    async def WatchRollouts(self, request, context):
        while True:
            yield api.WatchRolloutsResponse()
            await asyncio.sleep(0.01)


def counted(method: str, code: str) -> float:
    labels = {"method": f"{SERVICE}/{method}", "code": code}
    return REGISTRY.get_sample_value("tidegate_grpc_requests_total", labels) or 0.0


def open_streams() -> float:
    labels = {"method": f"{SERVICE}/WatchRollouts"}
    return REGISTRY.get_sample_value("tidegate_grpc_streams", labels) or 0.0


async def until(holds) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not holds():
            await asyncio.sleep(0.01)


@pytest.fixture
async def site():
    server, servicer = GrpcServer(service_names=[SERVICE], access=AccessSettings(insecure=True)), Servicer()
    rpc.add_RolloutServiceServicer_to_server(servicer, server.server)
    port = await server.start("127.0.0.1", 0)
    address = f"127.0.0.1:{port}"
    async with grpc.aio.insecure_channel(address) as channel:
        yield rpc.RolloutServiceStub(channel), servicer, channel, address
    await server.stop(0)


@pytest.mark.parametrize(("rollout_id", "code"), [("missing", "NOT_FOUND"), ("broken", "INTERNAL")])
async def test_failed_calls_are_counted_by_their_code(site, rollout_id, code):
    stub, _, _, _ = site
    before = counted("GetRollout", code)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.GetRollout(api.GetRolloutRequest(rollout_id=rollout_id))
    assert raised.value.code().name == code
    await until(lambda: counted("GetRollout", code) == before + 1)


async def test_cancelled_calls_are_counted_as_such(site):
    stub, servicer, _, _ = site
    before = counted("GetRollout", "CANCELLED")
    call = stub.GetRollout(api.GetRolloutRequest(rollout_id="slow"))
    async with asyncio.timeout(DEADLINE_S):
        await servicer.began.wait()
    call.cancel()
    await until(lambda: counted("GetRollout", "CANCELLED") == before + 1)


async def test_good_calls_are_timed_and_bind_what_tells_them_apart(site):
    stub, servicer, _, _ = site
    before = counted("AbortRollout", "OK")
    await stub.AbortRollout(api.AbortRolloutRequest(rollout_id="r", request_id="request-1"))
    await stub.ListRollouts(api.ListRolloutsRequest())
    await until(lambda: counted("AbortRollout", "OK") == before + 1)
    labels = {"method": f"{SERVICE}/AbortRollout"}
    assert REGISTRY.get_sample_value("tidegate_grpc_request_seconds_count", labels) >= 1
    first, second = servicer.seen
    assert first["method"] == "AbortRollout"
    assert first["request_id"] == "request-1"
    assert second["method"] == "ListRollouts"
    assert "request_id" not in second


async def test_open_streams_are_shown_until_their_caller_goes(site):
    stub, _, _, _ = site
    call = stub.WatchRollouts(api.WatchRolloutsRequest())
    await call.read()
    assert open_streams() == 1
    call.cancel()
    await until(lambda: open_streams() == 0)


async def test_health_is_not_measured(site):
    _, _, channel, _ = site
    await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    names = {
        sample.labels["method"]
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.name == "tidegate_grpc_requests_total"
    }
    assert not any("health" in name for name in names)


@pytest.fixture
def spans(monkeypatch):
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_TRACER", provider.get_tracer("test"))
    yield exporter
    provider.shutdown()


async def test_calls_within_a_span_are_answered_within_its_trace(site, spans):
    _, _, _, address = site
    async with open_aio_channel(address, CallerSettings()) as traced:
        stub = rpc.RolloutServiceStub(traced)
        with tracing.serving("test.Caller/Call", ""):
            caller = tracing.current_traceparent()
            await stub.ListRollouts(api.ListRolloutsRequest())
        await stub.ListRollouts(api.ListRolloutsRequest())
    await until(lambda: len(spans.get_finished_spans()) == 2)
    answered = next(span for span in spans.get_finished_spans() if span.name == f"{SERVICE}/ListRollouts")
    assert answered.kind is SpanKind.SERVER
    assert format_trace_id(answered.context.trace_id) == caller[3:35]
    assert answered.attributes["rpc.method"] == "ListRollouts"
    assert answered.attributes["rpc.grpc.status_code"] == 0


async def test_writes_begin_a_trace_and_failures_are_marked(site, spans):
    stub, _, _, _ = site
    await stub.AbortRollout(api.AbortRolloutRequest(rollout_id="r", request_id="request-2"))
    await stub.ListRollouts(api.ListRolloutsRequest())
    await until(spans.get_finished_spans)
    (span,) = spans.get_finished_spans()
    assert (span.name, span.parent) == (f"{SERVICE}/AbortRollout", None)
