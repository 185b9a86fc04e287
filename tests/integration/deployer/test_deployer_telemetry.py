"""The deployer as a process on a real broker: its steps keep the version's trace, also after a restart, and it counts."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiokafka import AIOKafkaConsumer
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tidegate.contracts.codec import Event, decode_record
from tidegate.contracts.topics import ROLLOUT_STATE, ROLLOUTS
from tidegate.core.bus import EventProducer
from tidegate.core.clock import utc_now
from tidegate.core.policy import default_policy
from tidegate.core.settings import KafkaSettings
from tidegate.stack.ports import free_ports
from tidegate.v1 import events_pb2 as pb
from tidegate.v1 import rollout_events_pb2 as rollout_pb
from tidegate.v1.rollout_service_pb2 import AbortRolloutRequest
from tidegate.v1.rollout_service_pb2_grpc import RolloutServiceStub
from tidegate.v1.values_pb2 import Artifact, Version

DEADLINE_S = 90.0
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
GIVEN = f"00-{TRACE_ID}-b7ad6b7169203331-01"
VERSION = Version(major=1)


@asynccontextmanager
async def deployer(kafka: KafkaSettings, folder: Path) -> AsyncIterator[tuple[int, int]]:
    """Run a deployer without a model host; yield the ports of its calls and its metrics."""
    port, metrics_port, gateway_port, nobody = free_ports(4)
    environment = os.environ | {
        "TIDEGATE_KAFKA_BOOTSTRAP": kafka.bootstrap,
        "TIDEGATE_KAFKA_TOPIC_PREFIX": kafka.topic_prefix,
        "TIDEGATE_KAFKA_PARTITION_COUNT": str(kafka.partition_count),
        "TIDEGATE_DEPLOYER_PORT": str(port),
        "TIDEGATE_DEPLOYER_METRICS_PORT": str(metrics_port),
        "TIDEGATE_DEPLOYER_GATEWAY_PORT": str(gateway_port),
        "TIDEGATE_DEPLOYER_MODELHOST": f"127.0.0.1:{nobody}",
        "TIDEGATE_DEPLOYER_DATA_DIR": str(folder / "data"),
    }
    with (folder / "deployer.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tidegate.deployer", env=environment, stderr=log, stdout=log
        )
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await _until_serving(channel, process, folder / "deployer.log")
        yield port, metrics_port
    finally:
        process.send_signal(signal.SIGKILL)
        await process.wait()


async def _until_serving(channel: grpc.aio.Channel, process: asyncio.subprocess.Process, log: Path) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    async with asyncio.timeout(DEADLINE_S):
        while True:
            assert process.returncode is None, f"the deployer has ended, see {log}"
            try:
                answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=2)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.1)
                continue
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                return
            await asyncio.sleep(0.1)


def said(message: Any, *, sequence: int) -> Event:
    return Event(
        message=message,
        id=f"{message.DESCRIPTOR.name}-1",
        source="test",
        time=utc_now(),
        subject="fraud",
        correlation_id="story-1",
        sequence=sequence,
        traceparent=GIVEN,
    )


@pytest.fixture
async def rollouts(bus_settings: KafkaSettings) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(
        *(topic.full_name(bus_settings.topic_prefix) for topic in (ROLLOUTS, ROLLOUT_STATE)),
        bootstrap_servers=bus_settings.bootstrap,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        group_id=None,
    )
    await consumer.start()
    yield consumer
    await consumer.stop()


async def next_of(consumer: AIOKafkaConsumer, kind: type[Any], phase: int | None = None) -> Event:
    """Return the next event of a kind (and phase) that has a rollout."""
    async with asyncio.timeout(DEADLINE_S):
        async for record in consumer:
            event = decode_record(record, received_time=utc_now())
            if isinstance(event.message, kind) and (phase is None or event.message.phase == phase):
                return event
    raise AssertionError("the consumer has ended")


async def test_steps_keep_the_versions_trace_and_are_counted(
    bus_settings: KafkaSettings, rollouts: AIOKafkaConsumer, tmp_path: Path
) -> None:
    policy = default_policy("fraud")
    artifact = Artifact(uri="s3://a/b", digest="sha256:" + 64 * "0", size_bytes=1, format="onnx")
    registered = pb.ModelRegistered(model="fraud", version=VERSION, artifact=artifact, policy=policy)
    blessed = pb.ModelBlessed(model="fraud", version=VERSION, policy=policy)
    async with EventProducer(bus_settings, client_id="test") as producer:
        await producer.publish(said(registered, sequence=1))
        await producer.publish(said(blessed, sequence=2))
    async with deployer(bus_settings, tmp_path) as (_, metrics_port):
        opened = await next_of(rollouts, rollout_pb.RolloutStep, rollout_pb.PHASE_STARTING)
        assert opened.traceparent[3:35] == TRACE_ID
        with await asyncio.to_thread(
            urllib.request.urlopen, f"http://127.0.0.1:{metrics_port}/metrics", timeout=10
        ) as answer:
            lines = answer.read().decode().splitlines()
    assert 'tidegate_deployer_rollouts{phase="STARTING"} 1.0' in lines
    assert 'tidegate_deployer_rollout_steps_total{phase="STARTING"} 1.0' in lines
    assert 'tidegate_deployer_decisions_total{event="VersionBlessed"} 1.0' in lines
    assert 'tidegate_events_consumed_total{topic="validation"} 1.0' in lines
    assert 'tidegate_consumer_behind_seconds{topic="validation"} 0.0' in lines
    # Killed and started again, it goes on in the same trace, which no event tells it any more.
    async with deployer(bus_settings, tmp_path) as (port, _):
        rollout_id = opened.message.rollout_id
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            request = AbortRolloutRequest(rollout_id=rollout_id, request_id="request-1")
            await RolloutServiceStub(channel).AbortRollout(request, timeout=DEADLINE_S)
        ended = await next_of(rollouts, rollout_pb.RolloutStep, rollout_pb.PHASE_ABORTED)
    assert ended.correlation_id == "story-1"
    assert ended.traceparent[3:35] == TRACE_ID
    log = (tmp_path / "deployer.log").read_text()
    assert '"correlation_id": "story-1"' in log
    assert f'"trace_id": "{TRACE_ID}"' in log
